"""What stands under a key: a value, word that there is none, or the placeholder of a reader at work. Pure.

    flags 0          the serialized value: what any other client reads
    flags NOTHING    the source has no such thing (`load` returned None); no bytes
    flags LEASE      a reader has missed and loads; the bytes are its nonce

A client that knows nothing of this and says plain `get` sees a placeholder as 32 hexadecimal digits. Whatever bears
other flags was written by somebody else, and is never guessed at.
"""

import json
import secrets
from typing import Any, Final, NamedTuple, Protocol

NOTHING: Final = 0x6E6F6E65
LEASE: Final = 0x6C656173


class Item(NamedTuple):
    """What memcached keeps under a key."""

    data: bytes
    flags: int = 0


_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class UnreadableError(Exception):
    """Raised when an item holds no value of ours, or none that the serializer can read."""


class Serializer(Protocol):
    """Values to bytes and back. Never pickle: whoever can write to the cache could then run code in every reader."""

    def dumps(self, value: Any, /) -> bytes: ...
    def loads(self, data: bytes, /) -> Any: ...


class Json:
    """The serializer used unless another is given: compact JSON, in UTF-8.

    >>> Json().dumps({"id": "abc-123", "price": 109.99})
    b'{"id":"abc-123","price":109.99}'
    """

    def dumps(self, value: Any, /) -> bytes:
        return _to_json(value).encode()

    def loads(self, data: bytes, /) -> Any:
        return json.loads(data)


def placeholder() -> Item:
    """A placeholder unlike every other: 128 random bits."""
    return Item(secrets.token_hex(16).encode(), LEASE)


def encode(value: Any, serializer: Serializer) -> Item:
    return Item(b"", NOTHING) if value is None else Item(serializer.dumps(value))


def decode(item: Item, serializer: Serializer) -> Any:
    """The value. Raises `UnreadableError`."""
    if item.flags == NOTHING:
        return None
    if item.flags:
        raise UnreadableError(f"its flags are {item.flags}: another client wrote it")
    try:
        return serializer.loads(item.data)
    except Exception as error:
        raise UnreadableError(str(error)) from error
