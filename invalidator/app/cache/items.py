"""The three kinds of item stored under a key: a value, a negative entry, or a reader's placeholder. Pure.

    flags 0          the serialized value, as any other client reads it
    flags NOTHING    a negative entry: `load` returned None; no bytes
    flags LEASE      a placeholder of a reader that missed and is loading; the bytes are its nonce

A client that knows nothing of this sees a placeholder as 32 hexadecimal digits when it sends a plain `get`. An item
with other flags was written by another client and is never interpreted.
"""

import json
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

NOTHING: Final = 0x6E6F6E65
LEASE: Final = 0x6C656173


class Item(msgspec.Struct, frozen=True, gc=False):
    """An item as memcached stores it."""

    data: bytes
    flags: int = 0


_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class UnreadableError(Exception):
    """Raised when an item holds no value of ours, or one that the serializer cannot read."""


class Serializer(Protocol):
    """A pair of functions between values and bytes.

    Never use pickle: anyone who can write to the cache could then run code in every reader.
    """

    def dumps(self, value: Any, /) -> bytes: ...
    def loads(self, data: bytes, /) -> Any: ...


class Json:
    """The default serializer: compact JSON, in UTF-8.

    It refuses a value that JSON would change: a tuple becomes a list, and an integer key of a dictionary a string.

    >>> Json().dumps({"id": "abc-123", "price": 109.99})
    b'{"id":"abc-123","price":109.99}'
    """

    loads = staticmethod(msgspec.json.Decoder().decode)

    def dumps(self, value: Any, /) -> bytes:
        return _unchanged(value, _to_json(value).encode(), self.loads)


class Typed:
    """A serializer for values of one type, as JSON: the type decides how each value is read back.

    The type may be a dataclass, a msgspec Struct, or a container. It may contain Decimal, datetime, UUID, bytes,
    tuples, sets, and dictionaries with integer keys. A value that does not equal itself once read back is refused.

    >>> prices = Typed(dict[int, Decimal])
    >>> prices.dumps({7: Decimal("109.90")})
    b'{"7":"109.90"}'
    >>> prices.loads(b'{"7":"109.90"}')
    {7: Decimal('109.90')}
    """

    def __init__(self, type: Any) -> None:
        self.loads = msgspec.json.Decoder(type).decode

    def dumps(self, value: Any, /) -> bytes:
        return _unchanged(value, msgspec.json.encode(value), self.loads)


def _unchanged(value: Any, data: bytes, loads: Callable[[bytes], Any]) -> bytes:
    if (found := loads(data)) != value:
        raise TypeError(f"it would be read back as {found!r:.200}")
    return data


def placeholder() -> Item:
    """Return a new, unique placeholder: 128 random bits."""
    return Item(secrets.token_hex(16).encode(), LEASE)


def encode(value: Any, serializer: Serializer) -> Item:
    return Item(b"", NOTHING) if value is None else Item(serializer.dumps(value))


def decode(item: Item, serializer: Serializer) -> Any:
    """Return the value of `item`, or raise `UnreadableError`."""
    if item.flags == NOTHING:
        return None
    if item.flags:
        raise UnreadableError(f"its flags are {item.flags}: another client wrote it")
    try:
        return serializer.loads(item.data)
    except Exception as error:
        raise UnreadableError(str(error)) from error
