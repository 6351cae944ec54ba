"""What others publish, as type and fields of an event: CloudEvents 1.0 and Debezium's change events. Pure.

    CloudEvents   type: as the publisher says               fields: those of its data, and "ce" with its attributes
    Debezium      type: debezium:<schema or db>.<table>     fields: those of the row, and before, after, op, source

Structured CloudEvents have "specversion" in the body; binary ones have their attributes in headers, called as the AMQP
binding calls them (``cloudEvents:type``, ``cloudEvents_type``) or as publishers for HTTP and Kafka do (``ce-type``,
``ce_type``), and any JSON as the body. Debezium's events come with or without their schema, the row as it is after the
change or, when it was deleted, before it.

Rules of this file:

1. What Debezium says beside rows (tombstones, heartbeats, transactions, schema changes) is an event too, of a type that
   no rule needs to name: it is acknowledged, not a dead letter.
2. A truncated table is poison: nobody can say which keys are stale, and nobody must overlook that.

Sources: the JSON format and the AMQP binding of CloudEvents 1.0.2; Debezium's reference, "Data change events" of its
connectors, and Debezium Server's RabbitMQ sink, which writes ``default`` where there is no value.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from invalidator.errors import PoisonError

#: Part of a header's name by which a binary CloudEvent is known.
SPECVERSION = "specversion"
#: What attributes are called in headers, behind one of these.
PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-", "ce_")

#: The body that Debezium Server's RabbitMQ sink gives a record without a value.
NO_VALUE = b"default"
TOMBSTONE = "debezium:tombstone"
#: Fields by which to know what Debezium says beside rows.
_ASIDES = {
    "debezium:schema-change": {"databaseName", "ddl"},
    "debezium:transaction": {"status", "id", "event_count"},
}
_HEARTBEAT = {"ts_ms"}

_from_json = msgspec.json.Decoder().decode


def attributes(headers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A binary CloudEvent's attributes; None where the headers hold none."""
    found = {
        name.removeprefix(prefix): value if isinstance(value, str | int) else str(value)
        for name, value in (headers or {}).items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }
    return found if SPECVERSION in found else None


def cloud_event(ce: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """The fields of a CloudEvent with these attributes; data that is no object is the field "data".

    Raises:
        PoisonError: unknown-specversion.
    """
    if ce[SPECVERSION] != "1.0":
        raise PoisonError(
            "unknown-specversion", f"specversion is {str(ce[SPECVERSION])[:80]!r}: publish CloudEvents 1.0"
        )
    fields = data if isinstance(data, dict) else {} if data is None else {"data": data}
    return {**fields, "ce": ce}


def structured(body: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Attributes and data of a CloudEvent's JSON.

    Raises:
        PoisonError: bad-data: what is in ``data_base64`` is no JSON.
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
    """Type and fields of what Debezium published; None where it is none of its events.

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
    if value["op"] == "m":  # pg_logical_emit_message: of no table
        return "debezium:message", value
    where, table = source.get("schema") or source.get("db"), source.get("table")
    if not (isinstance(where, str) and isinstance(table, str)):
        raise PoisonError("missing-field", 'Debezium\'s "source" names no table: its connectors for tables are read')
    if value["op"] == "t":
        raise PoisonError("table-truncated", f"{where[:80]!a}.{table[:80]!a} was truncated: run invalidator flush")
    before, after = value.get("before"), value.get("after")
    for name, row in (("before", before), ("after", after)):
        if row is not None and not isinstance(row, dict):
            raise PoisonError("wrong-type", f'Debezium\'s "{name}" is no row: its connectors for tables are read')
    if (row := before if after is None else after) is None:
        raise PoisonError("missing-field", 'Debezium\'s "before" and "after" are both missing: there is no row')
    return f"debezium:{where}.{table}", row | {"before": before, "after": after, "op": value["op"], "source": source}
