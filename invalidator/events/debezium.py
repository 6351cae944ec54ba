"""Debezium's messages, read as the type and fields of an event. Pure.

    a change                  debezium:<schema or db>.<table>     the row, and before, after, op, source
    a flattened change        debezium:<schema or db>.<table>     the row, and before, after, op
    nothing                   debezium:tombstone
    about something else      debezium:heartbeat, debezium:transaction, debezium:schema-change, debezium:message

They come with or without their schema. The row is the one after the change or, if it was deleted, the one before it.
With a schema, the logical types of Kafka Connect are read: see `invalidator.events.connect`. A flattened change comes
from the transformation ``ExtractNewRecordState``: the columns, and ``__table``, ``__op``, ``__deleted``, ``__schema``,
``__db`` as far as its ``add.fields`` and ``delete.tombstone.handling.mode`` ask for them.

Rules of this file:

1. A message about something other than rows is an event of its own type. No rule needs to name it: it is acknowledged,
   not a dead letter, and not counted as unmatched.
2. A truncated table is poison. Nobody can say which keys are stale, and nobody must overlook it.

Sources: "Data change events" of each connector, and "New Record State Extraction", in Debezium's reference; Debezium
Server's RabbitMQ sink, which writes ``default`` for a record without a value.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from invalidator.errors import PoisonError
from invalidator.events import connect

#: The body that Debezium Server's RabbitMQ sink writes for a record without a value.
NO_VALUE = b"default"
TOMBSTONE = "debezium:tombstone"
HEARTBEAT, MESSAGE = "debezium:heartbeat", "debezium:message"
#: Fields that identify Debezium's messages about something other than rows.
_ASIDES = {
    "debezium:schema-change": {"databaseName", "ddl"},
    "debezium:transaction": {"status", "id", "event_count"},
}
#: The types of the messages for which no rule is needed, but for tombstones.
NOTICES = {HEARTBEAT, MESSAGE, *_ASIDES}
_HEARTBEAT_FIELDS = {"ts_ms"}

#: Base64 with its padding: a number of 1, 2, 4, 5 … bytes that is encoded and has no schema looks like this.
_PADDED = re.compile(r"(?:[A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=)")

Change = tuple[str, dict[str, Any]]


def read(body: dict[str, Any]) -> Change | None:
    """Return the type and fields of a Debezium message, or None if it is not one of Debezium's.

    Raises:
        PoisonError: table-truncated, wrong-type, missing-field or too-deep.
    """
    value = body
    if body.keys() == {"schema", "payload"}:
        value = _with_types(body)
    if value is None:
        return TOMBSTONE, {}
    if not isinstance(value, dict):
        return None
    source = value.get("source")
    if "op" in value and isinstance(source, dict):
        return _change(value, source)
    if value.keys() == _HEARTBEAT_FIELDS:
        return HEARTBEAT, value
    return next(((type, value) for type, names in _ASIDES.items() if names <= value.keys()), None) or flattened(value)


def flattened(row: dict[str, Any]) -> Change | None:
    """Return the type and fields of a flattened change, or None if the object is not one.

    A row may have a column "type", so this comes before the field "type" is believed.

    Raises:
        PoisonError: table-truncated, or no-type if the table is not named.
    """
    table, op = row.get("__table"), row.get("__op")
    deleted = row.get("__deleted") in ("true", True) or op == "d"
    if not isinstance(table, str):
        if op not in _OPERATIONS and "__deleted" not in row:
            return None
        raise PoisonError("no-type", 'the flattened row has no "__table": set add.fields=op,table,schema (or db)')
    where = row.get("__schema") or row.get("__db")
    name = f"{where}.{table}" if isinstance(where, str) else table
    if op == "t":
        raise _truncated(name)
    before, after = (row, None) if deleted else (None, row)
    return f"debezium:{name}", row | {"before": before, "after": after, "op": "d" if deleted else op}


def transaction_of(fields: Mapping[str, Any]) -> int | None:
    """Return the number of a change's transaction in PostgreSQL, None if the event does not say.

    A flattened change says it if ``add.fields`` asks for ``source.txId``.
    """
    source = fields.get("source")
    number = source.get("txId") if isinstance(source, dict) else fields.get("__source_txId")
    if isinstance(number, str) and number.isdecimal():
        number = int(number)
    return number if isinstance(number, int) and number > 0 else None


def encoded_columns(type: str, fields: Mapping[str, Any], keys: Collection[str]) -> list[str]:
    """Return the columns that are part of a key and could be numbers in Connect's encoding, "BQ==" for 5."""
    if not type.startswith("debezium:"):
        return []
    return [
        name
        for name, value in fields.items()
        if isinstance(value, str) and _PADDED.fullmatch(value) and any(value in key for key in keys)
    ]


def _with_types(body: dict[str, Any]) -> Any:
    try:
        return connect.read(body["payload"], body["schema"])
    except RecursionError as error:
        raise PoisonError("too-deep", "the schema is nested too deeply") from error


_OPERATIONS = ("c", "u", "d", "r", "t")


def _change(value: dict[str, Any], source: dict[str, Any]) -> Change:
    if value["op"] == "m":  # pg_logical_emit_message, which belongs to no table
        return MESSAGE, value
    where, table = source.get("schema") or source.get("db"), source.get("table")
    if not (isinstance(where, str) and isinstance(table, str)):
        raise PoisonError(
            "missing-field",
            'Debezium\'s "source" names no table: only its connectors for relational databases are supported',
        )
    if value["op"] == "t":
        raise _truncated(f"{where}.{table}")
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


def _truncated(table: str) -> PoisonError:
    return PoisonError("table-truncated", f"{table[:160]!a} was truncated: run invalidator flush")
