"""Foreign formats, read as the type and fields of an event: CloudEvents 1.0 and Debezium's change events. Pure.

    CloudEvents   type: the CloudEvent's own                fields: those of its data, and "ce" with its attributes
    Debezium      type: debezium:<schema or db>.<table>     fields: those of the row, and before, after, op, source

A structured CloudEvent has "specversion" in the body. A binary one has its attributes in headers and any JSON as the
body. The headers are named as in the AMQP binding (``cloudEvents:type``, ``cloudEvents_type``) or as in the HTTP and
Kafka bindings (``ce-type``, ``ce_type``). Debezium's events come with or without their schema. The row is the one after
the change or, if it was deleted, the one before it.

Rules of this file:

1. Debezium's other messages (tombstones, heartbeats, transactions, schema changes) are events of their own types. No
   rule needs to name them: they are acknowledged, not dead letters.
2. A truncated table is poison. Nobody can say which keys are stale, and nobody must overlook it.

Sources: the JSON format and the AMQP binding of CloudEvents 1.0.2; "Data change events" of each connector in Debezium's
reference; Debezium Server's RabbitMQ sink, which writes ``default`` for a record without a value.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from invalidator.errors import PoisonError

#: The attribute that marks a CloudEvent, in the body or in the headers.
SPECVERSION = "specversion"
#: Prefixes of the headers that hold attributes.
PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-", "ce_")

#: Start of the content type of a structured CloudEvent, whose body holds the attributes.
STRUCTURED = "application/cloudevents+"

#: The body that Debezium Server's RabbitMQ sink writes for a record without a value.
NO_VALUE = b"default"
TOMBSTONE = "debezium:tombstone"
#: Fields that identify Debezium's messages about something other than rows.
_ASIDES = {
    "debezium:schema-change": {"databaseName", "ddl"},
    "debezium:transaction": {"status", "id", "event_count"},
}
_HEARTBEAT = {"ts_ms"}

_from_json = msgspec.json.Decoder().decode


def attributes(headers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a binary CloudEvent's attributes, or None if the headers hold no CloudEvent."""
    found = {
        name.removeprefix(prefix): value if isinstance(value, str | int) else str(value)
        for name, value in (headers or {}).items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }
    return found if SPECVERSION in found else None


def cloud_event(ce: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return the fields of a CloudEvent with these attributes. Data that is not an object becomes the field "data".

    Raises:
        PoisonError: unknown-specversion.
    """
    if ce[SPECVERSION] != "1.0":
        raise PoisonError(
            "unknown-specversion", f"specversion is {str(ce[SPECVERSION])[:80]!r}: publish CloudEvents 1.0"
        )
    fields = data if isinstance(data, dict) else {} if data is None else {"data": data}
    return {**fields, "ce": ce}


def is_structured(body: Any, content_type: str | None) -> bool:
    """Return True if the content type says that the body is a CloudEvent itself, whatever the headers hold."""
    return isinstance(body, dict) and SPECVERSION in body and _media_type(content_type).startswith(STRUCTURED)


def _media_type(content_type: str | None) -> str:
    """Return a content type without its parameters, in lower case."""
    return (content_type or "").partition(";")[0].strip().lower()


def structured(body: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the attributes and the data of a structured CloudEvent.

    Raises:
        PoisonError: bad-data, if ``data_base64`` does not hold JSON.
    """
    ce = {name: value for name, value in body.items() if name not in ("data", "data_base64")}
    encoded = body.get("data_base64")
    if encoded is None:
        return ce, body.get("data")
    try:
        return ce, _from_json(base64.b64decode(encoded, validate=True))
    except (ValueError, TypeError, RecursionError) as error:
        raise PoisonError("bad-data", f'"data_base64" does not hold JSON ({error}): publish JSON as "data"') from error


def debezium(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the type and fields of a Debezium message, or None if it is not one of Debezium's.

    Raises:
        PoisonError: table-truncated, wrong-type or missing-field.
    """
    value = body["payload"] if body.keys() == {"schema", "payload"} else body
    if value is None:
        return TOMBSTONE, {}
    if not isinstance(value, dict):
        return None
    source = value.get("source")
    if "op" in value and isinstance(source, dict):
        return _change(value, source)
    if value.keys() == _HEARTBEAT:
        return "debezium:heartbeat", value
    return next(((type, value) for type, names in _ASIDES.items() if names <= value.keys()), None)


def _change(value: dict[str, Any], source: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    if value["op"] == "m":  # pg_logical_emit_message, which belongs to no table
        return "debezium:message", value
    where, table = source.get("schema") or source.get("db"), source.get("table")
    if not (isinstance(where, str) and isinstance(table, str)):
        raise PoisonError(
            "missing-field",
            'Debezium\'s "source" names no table: only its connectors for relational databases are supported',
        )
    if value["op"] == "t":
        raise PoisonError("table-truncated", f"{where[:80]!a}.{table[:80]!a} was truncated: run invalidator flush")
    before, after = value.get("before"), value.get("after")
    for name, row in (("before", before), ("after", after)):
        if row is not None and not isinstance(row, dict):
            raise PoisonError(
                "wrong-type",
                f'Debezium\'s "{name}" is not a row: only its connectors for relational databases are supported',
            )
    if (row := before if after is None else after) is None:
        raise PoisonError("missing-field", 'Debezium\'s "before" and "after" are both missing, so there is no row')
    return f"debezium:{where}.{table}", row | {"before": before, "after": after, "op": value["op"], "source": source}
