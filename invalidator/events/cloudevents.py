"""CloudEvents 1.0, read as the type and fields of an event. Pure.

    type: the CloudEvent's own          fields: those of its data, and "ce" with its attributes

A structured CloudEvent has "specversion" in the body, which holds the attributes and the data. A binary one has its
attributes in headers and its data as the body. The headers are named as in the AMQP binding (``cloudEvents:type``,
``cloudEvents_type``) or as in the HTTP and Kafka bindings (``ce-type``, ``ce_type``).

Rules of this file:

1. A message may be both: the AMQP binding (3.2.3) lets a structured event repeat its attributes in headers. Its content
   type decides.
2. Data that is not JSON is no obstacle to a rule that needs only attributes, ``{ce.subject}``. A template that needs a
   field of such data makes the event poison, even if the field is optional: nobody knows whether it is there.
3. A batch is poison. Its events cannot be dead letters one by one.

Sources: the JSON format, the AMQP binding and the JSON batch format of CloudEvents 1.0.2.
"""

import base64
from collections.abc import Mapping
from typing import Any

from invalidator.errors import PoisonError
from invalidator.events.body import UNREADABLE, from_json
from invalidator.events.quoting import quoted

#: The attribute that marks a CloudEvent, in the body or in the headers.
SPECVERSION = "specversion"
#: Prefixes of the headers that hold attributes.
PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-", "ce_")
#: Start of the content type of a structured CloudEvent.
STRUCTURED = "application/cloudevents+"
#: Content type of several CloudEvents in one message, as a list.
BATCH = "application/cloudevents-batch"
#: Reasons for which the data of a binary CloudEvent is not read, and its attributes are.
UNREADABLE_DATA = {"not-json", "bad-utf8", "unknown-encoding", "too-deep", "wrong-type"}


class Unread(dict[str, Any]):
    """The fields of a CloudEvent whose data cannot be read; asking for one of the data raises the reason."""

    def __init__(self, known: Mapping[str, Any], reason: PoisonError) -> None:
        super().__init__(known)
        self._reason = reason

    def get(self, name: str, default: Any = None) -> Any:  # the one method that templates call
        if name not in self:
            raise self._reason
        return self[name]


def attributes(headers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a binary CloudEvent's attributes, or None if the headers hold no CloudEvent."""
    found = {
        name.removeprefix(prefix): value if isinstance(value, str | int) else str(value)
        for name, value in (headers or {}).items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }
    return found if SPECVERSION in found else None


def is_structured(body: Any, content_type: str | None) -> bool:
    """Return True if the content type says that the body is a CloudEvent itself, whatever the headers hold."""
    return isinstance(body, dict) and SPECVERSION in body and _media_type(content_type).startswith(STRUCTURED)


def is_batch(body: Any, content_type: str | None) -> bool:
    """Return True for a list of CloudEvents."""
    if not isinstance(body, list):
        return False
    if _media_type(content_type).startswith(BATCH):
        return True
    return bool(body) and all(isinstance(each, dict) and SPECVERSION in each for each in body)


def binary(ce: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return the fields of a binary CloudEvent with these attributes and this JSON as data.

    Raises:
        PoisonError: unknown-specversion.
    """
    _check_version(ce)
    return _fields(ce, data)


def binary_unread(ce: Mapping[str, Any], reason: PoisonError) -> Unread:
    """Return the fields of a binary CloudEvent whose data cannot be read, for this reason.

    Raises:
        PoisonError: unknown-specversion.
    """
    _check_version(ce)
    return Unread({"ce": ce}, reason)


def structured(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a structured CloudEvent.

    Raises:
        PoisonError: unknown-specversion.
    """
    _check_version(body)
    ce = {name: value for name, value in body.items() if name not in ("data", "data_base64")}
    encoded, data = body.get("data_base64"), body.get("data")
    if encoded is None:
        if isinstance(data, str) and not _is_json(ce):
            return Unread({"data": data, "ce": ce}, _not_json(ce, quoted(data)))
        return _fields(ce, data)
    try:
        return _fields(ce, from_json(base64.b64decode(encoded, validate=True)))
    except (ValueError, TypeError, *UNREADABLE) as error:
        return Unread({"ce": ce}, _not_json(ce, f'"data_base64" does not hold JSON ({error})'))


def _fields(ce: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return the data with "ce" in it. Data that is not an object becomes the field "data"."""
    fields = data if isinstance(data, dict) else {} if data is None else {"data": data}
    return {**fields, "ce": ce}


def _check_version(ce: Mapping[str, Any]) -> None:
    if ce[SPECVERSION] != "1.0":
        raise PoisonError(
            "unknown-specversion", f"specversion is {str(ce[SPECVERSION])[:80]!r}: publish CloudEvents 1.0"
        )


def _is_json(ce: Mapping[str, Any]) -> bool:
    """Return True if the data is JSON by its content type, which is the default."""
    media = _media_type(str(ce.get("datacontenttype") or "application/json"))
    return media.endswith(("/json", "+json"))


def _not_json(ce: Mapping[str, Any], found: str) -> PoisonError:
    said = ce.get("datacontenttype")
    kind = f" of {quoted(str(said))}" if said else ""
    return PoisonError(
        "bad-data", f"the data{kind} is not JSON, so a rule can use {{ce.…}} only: {found}; publish JSON as data"
    )


def _media_type(content_type: str | None) -> str:
    """Return a content type without its parameters, in lower case."""
    return (content_type or "").partition(";")[0].strip().lower()
