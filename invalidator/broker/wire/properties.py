"""AMQP properties of any publisher, decoded one by one: one that cannot be read costs no other.

    header ─> split: the bytes of each ─┬─> `read`: values, or `UnreadableProperty`       inspecting, receipts
                                        └─> `copy_of`: the same bytes again       dead letters, replays

Whatever RabbitMQ lets through must neither end a connection nor be lost. pamqp decodes all or nothing: a timestamp in
nanoseconds or a name that is not UTF-8 costs every property, or the connection. Source of the layout: AMQP 0-9-1,
sections 2.3.5.2 and 4.2.5, with the types of RabbitMQ's errata.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import Any, NamedTuple

from pamqp import encode

from invalidator.broker.wire.header import Properties, text

_UINT = Struct(">L")
_FLAGS = Struct(">H")
_TIMESTAMP = Struct(">Q")

#: Properties that an event keeps as a dead letter, and when it is replayed; its headers and its id are kept apart.
OF_THE_EVENT = ("content_type", "content_encoding", "message_type", "timestamp", "app_id", "correlation_id")
#: Bytes of a property that is neither a short string nor a table.
SIZES = {"delivery_mode": 1, "priority": 1, "timestamp": 8}
#: Numbers by the type of a table's value.
NUMBERS = {
    type: Struct(f">{layout}")
    for type, layout in zip(b"bBsuIilLfd", ("b", "B", "h", "H", "i", "I", "q", "q", "f", "d"), strict=True)
}
#: Bytes by the type of a table's value; others have their length in front.
FIXED = {type: layout.size for type, layout in NUMBERS.items()} | dict(zip(b"tDTV", (1, 5, 8, 0), strict=True))
SIZED = frozenset(b"SxAF")
NESTING, TABLE = frozenset(b"AF"), ord("F")
#: Limit of tables and arrays within each other.
DEPTH = 32
#: Timestamps above it are milliseconds, as pamqp takes them: as seconds, it is in the year 2106.
SECONDS = 0xFFFFFFFF
#: Bytes of the longest short string.
SHORT = 255
#: Bytes of an unreadable value that are shown.
SHOWN = 32


@dataclass(frozen=True, repr=False)
class UnreadableProperty:
    """A value that has no meaning here, as the bytes that came."""

    raw: bytes

    def __repr__(self) -> str:
        return f"unreadable (0x{self.raw[:SHOWN].hex()}{'…' if len(self.raw) > SHOWN else ''})"


class Entry(NamedTuple):
    """One entry of a table."""

    name: str
    value: Any
    #: All its bytes, name included; empty where its end cannot be found.
    raw: bytes


class Read(NamedTuple):
    """The properties of a message; unreadable ones are missing in ``properties``."""

    properties: Properties
    unreadable: dict[str, UnreadableProperty]


def read(header: bytes) -> Read:
    """Decode a content header's payload, from the property flags on."""
    found = Read(Properties(), {})
    for name, raw in split(header).items():
        value = _property(name, raw)
        if isinstance(value, UnreadableProperty):
            found.unreadable[name] = value
        else:
            setattr(found.properties, name, value)  # the constructor refuses what RabbitMQ lets through
    return found


def copy_of(
    header: bytes,
    names: Collection[str],
    *,
    left_out: Callable[[str], bool],
    headers: Mapping[str, Any],
    message_id: str | None = None,
) -> Properties:
    """Return the properties ``names`` of a header to be published again, byte by byte as they came.

    Of its table `headers`, the entries whose names are ``left_out`` are missing, and ``headers`` are added. A
    ``message_id`` longer than AMQP allows is missing, too.
    """
    parts = split(header)
    kept = [
        entry for entry in entries(parts.get("headers", b"")) if not (entry.name in headers or left_out(entry.name))
    ]
    raw = {name: part for name, part in parts.items() if name in names}
    if table := b"".join(entry.raw for entry in kept) + encode.field_table(dict(headers))[_UINT.size :]:
        raw["headers"] = _UINT.pack(len(table)) + table
    copy = CopiedProperties(raw)
    for name, value in read(header).properties:
        if name in raw:
            setattr(copy, name, value)
    copy.headers = {entry.name: entry.value for entry in kept} | dict(headers)
    copy.message_id = message_id if message_id and len(message_id.encode()) <= SHORT else None
    return copy


def string_of(header: bytes, name: str) -> str | None:
    """Return a string among the properties, escaped where it is not UTF-8; None if it is missing or empty."""
    return text(split(header).get(name, b"")[1:]) or None


class CopiedProperties(Properties):
    """Properties of which some are written as the bytes that came."""

    def __init__(self, raw: Mapping[str, bytes]) -> None:
        super().__init__()
        self._raw = raw

    def marshal(self) -> bytes:
        """Return the property flags and the properties, as a content header has them."""
        flags, parts = 0, list[bytes]()
        for name in Properties.__slots__:
            if not (part := self._raw.get(name)):
                value = getattr(self, name)
                part = b"" if value in (None, "", {}) else self.encode_property(name, value)
            if part:
                flags |= self.flags[name]
                parts.append(part)
        return _FLAGS.pack(flags) + b"".join(parts)


def split(header: bytes) -> dict[str, bytes]:
    """Return the bytes of each property by its name, lengths included; the last one may be cut off."""
    found: dict[str, bytes] = {}
    flags, at = int.from_bytes(header[: _FLAGS.size]), _FLAGS.size
    for name in Properties.__slots__:  # they are in the order of the wire
        if flags & Properties.flags[name]:
            if name == "headers":
                size = _UINT.size + int.from_bytes(header[at : at + _UINT.size])
            else:
                size = SIZES.get(name) or 1 + int.from_bytes(header[at : at + 1])
            found[name] = header[at : at + size]
            at += size
    return found


def entries(table: bytes, depth: int = DEPTH) -> Iterator[Entry]:
    """Yield the entries of a table, whose length is in front; what cannot be taken apart is the last one's value."""
    at = _UINT.size
    while at < len(table):
        begins, at = at, at + 1 + table[at]
        name, size = text(table[begins + 1 : at]), _size(table, at)
        if size is None:
            yield Entry(name, UnreadableProperty(table[at:]), b"")
            return
        yield Entry(name, _value(table[at : at + size], depth), table[begins : at + size])
        at += size


def _items(array: bytes, depth: int) -> Iterator[Any]:
    at = _UINT.size
    while at < len(array):
        if (size := _size(array, at)) is None:
            yield UnreadableProperty(array[at:])
            return
        yield _value(array[at : at + size], depth)
        at += size


def _property(name: str, raw: bytes) -> Any:
    if name == "headers":
        is_whole = len(raw) >= _UINT.size and len(raw) == _UINT.size + int.from_bytes(raw[: _UINT.size])
        return _table(raw) if is_whole else UnreadableProperty(raw)
    if name == "timestamp":
        return _time(raw)
    if name in SIZES:
        return raw[0] if raw else UnreadableProperty(raw)
    return _string(raw[1:]) if raw and len(raw) == 1 + raw[0] else UnreadableProperty(raw)


def _size(data: bytes, at: int) -> int | None:
    """Return the bytes of the typed value that begins there; None if its type is unknown or it is cut off."""
    kind = data[at] if at < len(data) else None
    if kind in FIXED:
        size = 1 + FIXED[kind]
    elif kind in SIZED:
        size = 1 + _UINT.size + int.from_bytes(data[at + 1 : at + 1 + _UINT.size])
    else:
        return None
    return size if at + size <= len(data) else None


def _value(raw: bytes, depth: int) -> Any:
    """Decode a whole value, whose type is in front; ``depth`` is how much deeper tables and arrays may nest."""
    kind, data = raw[0], raw[1:]
    if number := NUMBERS.get(kind):
        return number.unpack(data)[0]
    if kind in NESTING:
        if not depth:
            return UnreadableProperty(raw)
        return _table(data, depth - 1) if kind == TABLE else list(_items(data, depth - 1))
    return _OTHERS[kind](data)


def _table(raw: bytes, depth: int = DEPTH) -> dict[str, Any]:
    return {entry.name: entry.value for entry in entries(raw, depth)}


def _time(raw: bytes) -> datetime | UnreadableProperty:
    if len(raw) != _TIMESTAMP.size:
        return UnreadableProperty(raw)
    seconds: float = _TIMESTAMP.unpack(raw)[0]
    try:
        return datetime.fromtimestamp(seconds / 1000 if seconds > SECONDS else seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return UnreadableProperty(raw)


def _string(raw: bytes) -> str | UnreadableProperty:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return UnreadableProperty(raw)


def _long_string(data: bytes) -> str | bytes:
    string = _string(data[_UINT.size :])
    return string.raw if isinstance(string, UnreadableProperty) else string


def _decimal(data: bytes) -> Decimal:
    return Decimal(int.from_bytes(data[1:])).scaleb(-data[0])


#: Decoders of the other values, by type.
_OTHERS: dict[int, Callable[[bytes], Any]] = {
    ord("t"): lambda data: data != b"\0",
    ord("D"): _decimal,
    ord("T"): _time,
    ord("S"): _long_string,
    ord("x"): lambda data: data[_UINT.size :],
    ord("V"): lambda _: None,
}
