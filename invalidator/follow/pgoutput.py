"""Decoding of PostgreSQL's logical replication messages, as the output plugin ``pgoutput`` writes them. Pure.

Rows are decoded on demand: a change of a table that nobody asks for costs the reading of its table's number.

Rules of this file:

1. A column whose value the server did not send (an unchanged TOASTed one) is absent from the row. It is never null.
2. A table is known by its last Relation message, which the server sends before the first change, and again after each
   ALTER TABLE.
3. Bytes that no version of the protocol allows are a `ProtocolError`: nothing is skipped.

Source: PostgreSQL's documentation, "Logical Replication Message Formats", protocol version 1.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from msgspec import Struct

from invalidator.errors import UnreachableError

#: PostgreSQL counts microseconds from here.
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

#: A column's value from its text, as JSON has it.
Converter = Callable[[bytes], Any]

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_MESSAGE = struct.Struct(">BQ")
_TABLE = struct.Struct(">I")
_COUNT = struct.Struct(">H")
_TYPE = struct.Struct(">Ii")


class ProtocolError(UnreachableError):
    """Raised when the server sent what the protocol does not allow."""


class Begin(NamedTuple):
    """The start of a committed transaction."""

    #: Where its commit record stands in the log.
    lsn: int
    committed_at: datetime
    #: The transaction's number, without its epoch.
    xid: int


class Commit(NamedTuple):
    """The end of a transaction."""

    #: The position after it.
    end_lsn: int


class Column(NamedTuple):
    """A column of a table, as the log describes it."""

    name: str
    type_oid: int
    is_key: bool


class Relation(Struct, frozen=True, cache_hash=True):
    """A table, as the log describes it. It is looked up for each row, so its hash is computed once."""

    schema: str
    table: str
    #: REPLICA IDENTITY: d(efault), n(othing), f(ull) or i(ndex).
    identity: str
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"


class Change(NamedTuple):
    """A row that was inserted, updated or deleted; its columns are read by `Decoder.rows`."""

    relation: Relation
    #: c(reate), u(pdate) or d(elete), as Debezium abbreviates them.
    op: str
    data: bytes


class Truncate(NamedTuple):
    """Tables that were emptied by one TRUNCATE."""

    relations: tuple[Relation, ...]


class LogMessage(NamedTuple):
    """The message of a ``pg_logical_emit_message`` inside a transaction."""

    prefix: str
    content: bytes


class Ignored(NamedTuple):
    """A message that says nothing about rows: an origin, a type, a message outside of any transaction."""

    kind: str


Decoded = Begin | Commit | Relation | Change | Truncate | LogMessage | Ignored

_OPERATIONS = {ord("I"): "c", ord("U"): "u", ord("D"): "d"}


class Decoder:
    """Remembers the tables that the stream has described, and decodes messages and rows."""

    def __init__(self, converter: Callable[[int], Converter]) -> None:
        """Keep `converter`, which returns the function that makes JSON values of a type's texts, by the type's OID."""
        self._converter = converter
        self._relations: dict[int, Relation] = {}
        self._converters: dict[Relation, tuple[tuple[str, Converter], ...]] = {}
        self._others: dict[bytes, Callable[[bytes], Decoded]] = {
            b"B": _begin,
            b"C": lambda data: Commit(_COMMIT.unpack_from(data, 1)[2]),
            b"R": self._described,
            b"T": self._truncated,
            b"M": _log_message,
            b"O": lambda _: Ignored("O"),
            b"Y": lambda _: Ignored("Y"),
        }

    def decode(self, data: bytes) -> Decoded:
        """Return what a message says.

        Raises:
            ProtocolError: the bytes are no message of protocol version 1.
        """
        try:
            return self._decode(data)
        except (struct.error, IndexError, KeyError, ValueError) as error:
            raise ProtocolError(f"the server sent a message that cannot be read: {data[:80]!r}") from error

    def _decode(self, data: bytes) -> Decoded:
        if op := _OPERATIONS.get(data[0]):
            return Change(self._relations[_TABLE.unpack_from(data, 1)[0]], op, data)
        return self._others[data[:1]](data)

    def _described(self, data: bytes) -> Relation:
        oid, relation = _relation(data)
        self._relations[oid] = relation
        return relation

    def _truncated(self, data: bytes) -> Truncate:
        (count,) = _TABLE.unpack_from(data, 1)
        oids = struct.unpack_from(f">{count}I", data, 6)
        return Truncate(tuple(self._relations[oid] for oid in oids))

    def rows(self, change: Change) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the row before and after a change, as far as the server sent them: column -> JSON value.

        Before an update there is the whole row with REPLICA IDENTITY FULL, only the key's columns where the key changed
        otherwise, else None. Before a delete there is the whole row, or its key's columns.

        Raises:
            ProtocolError: the row does not fit its table.
        """
        try:
            return self._rows(change)
        except (struct.error, IndexError, ValueError) as error:
            raise ProtocolError(f"a row of {change.relation.name} cannot be read: {change.data[:80]!r}") from error

    def _rows(self, change: Change) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        before, at = None, 5
        kind = change.data[at : at + 1]
        if kind in (b"K", b"O"):
            before, at = self._row(change, at + 1, only_key=kind == b"K")
            kind = change.data[at : at + 1]
        if kind != b"N":
            return before, None
        after, _ = self._row(change, at + 1, only_key=False)
        return before, after

    def _row(self, change: Change, at: int, *, only_key: bool) -> tuple[dict[str, Any], int]:
        data, relation = change.data, change.relation
        columns = self._converters.get(relation) or self._learn(relation)
        row: dict[str, Any] = {}
        (count,), at = _COUNT.unpack_from(data, at), at + 2
        if count != len(columns):
            raise ValueError(count)
        for name, convert in columns:
            kind = data[at]
            at += 1
            if kind == TEXT:
                (size,) = _TABLE.unpack_from(data, at)
                start = at + 4
                at = start + size
                row[name] = convert(data[start:at])
            elif kind == NULL:
                row[name] = None
            elif kind != UNCHANGED:
                raise ValueError(kind)
        if only_key:  # the server fills in null for every other column
            keys = {column.name for column in relation.columns if column.is_key}
            row = {name: value for name, value in row.items() if name in keys}
        return row, at

    def _learn(self, relation: Relation) -> tuple[tuple[str, Converter], ...]:
        self._converters[relation] = tuple((each.name, self._converter(each.type_oid)) for each in relation.columns)
        return self._converters[relation]


TEXT, NULL, UNCHANGED = b"tnu"


def _begin(data: bytes) -> Begin:
    lsn, microseconds, xid = _BEGIN.unpack_from(data, 1)
    return Begin(lsn, EPOCH + timedelta(microseconds=microseconds), xid)


def _relation(data: bytes) -> tuple[int, Relation]:
    (oid,) = _TABLE.unpack_from(data, 1)
    schema, at = _string(data, 5)
    table, at = _string(data, at)
    identity = chr(data[at])
    (count,) = _COUNT.unpack_from(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(data[at] & 1)
        name, at = _string(data, at + 1)
        type_oid, _modifier = _TYPE.unpack_from(data, at)
        at += _TYPE.size
        columns.append(Column(name, type_oid, is_key))
    # An empty name stands for pg_catalog.
    return oid, Relation(schema or "pg_catalog", table, identity, tuple(columns))


def _log_message(data: bytes) -> Decoded:
    flags, _lsn = _MESSAGE.unpack_from(data, 1)
    prefix, at = _string(data, 1 + _MESSAGE.size)
    (size,) = _TABLE.unpack_from(data, at)
    content = data[at + 4 : at + 4 + size]
    if len(content) != size:
        raise ValueError(size)
    return LogMessage(prefix, content) if flags & 1 else Ignored("M")


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
