"""Messages with any properties that RabbitMQ lets through, made from a seed, and a way to publish them.

RabbitMQ refuses little: other delivery modes than 1 and 2, CC and BCC that are not lists, and infinite numbers.
"""

import asyncio
import json
import struct
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from aiormq.abc import AbstractChannel as RawChannel
from pamqp import commands

Properties = commands.Basic.Properties
#: Messages published at a time.
AT_ONCE = 200
#: Names of headers that mean something to a worker, to RabbitMQ or to an operator, and names that mean nothing.
NAMES = [
    b"timestamp_in_ms", b"traceparent", b"x-death", b"x-delivery-count", b"x-invalidator-at", b"x-invalidator-reason",
    b"x-invalidator-detail", b"x-invalidator-message-id", b"x-invalidator-worker", b"caf\xe9", b"\xff\xfe", b"",
    b"x" * 255,
]  # fmt: skip
#: Times in seconds: now, the epoch, milliseconds, microseconds, nanoseconds, before 1970, the year 1.
TIMES = [
    1_779_000_000, 0, 1_779_000_000_000, 1_779_000_000_000_000, 1_779_000_000_000_000_000, 2**64 - 1,
    2**64 - 62_135_596_800,
]  # fmt: skip


class Message(NamedTuple):
    """A message, and the product that it updates; None if no worker can evict anything for it."""

    body: bytes
    properties: "Raw"
    product: int | None


class Raw(Properties):
    """Properties that are published as these bytes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def marshal(self) -> bytes:
        return self._raw


class Anything:
    """A source of messages, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)

    def messages(self, count: int) -> list[Message]:
        """Return updates of the products 0, 1, 2 … with bad messages among them, about as many."""
        return [self._good(number) if self._chance.random() < 0.5 else self._bad() for number in range(count)]

    def _good(self, product: int) -> Message:
        fields = {"type": "product_updated", "id": product}
        return Message(json.dumps(fields).encode(), Raw(self._properties()), product)

    def _bad(self) -> Message:
        """Return a body that is not JSON, with a type and encoding of any bytes, or an event that lacks its field."""
        more = {name: self._string() for name in ("content_encoding", "message_type") if self._chance.random() < 0.3}
        if self._chance.random() < 0.5:
            return Message(b"\xff" + self._bytes(100), Raw(self._properties(**more)), None)
        return Message(b'{"type":"product_updated"}', Raw(self._properties()), None)

    def _properties(self, **given: bytes) -> bytes:
        parts = dict(given)
        for name in ("content_type", "correlation_id", "message_id", "app_id", "cluster_id"):
            parts[name] = self._string()
        parts |= {"delivery_mode": self._chance.choice([b"\1", b"\2"]), "priority": self._bytes(1, least=1)}
        parts["timestamp"] = self._time()
        parts["headers"] = self._table(depth=3)
        kept = {name for name in parts if name in given or self._chance.random() < 0.4}
        flags = sum(Properties.flags[name] for name in kept)
        return struct.pack(">H", flags) + b"".join(parts[name] for name in Properties.__slots__ if name in kept)

    def _bytes(self, most: int, *, least: int = 0) -> bytes:
        return self._chance.randbytes(self._chance.randint(least, most))

    def _string(self) -> bytes:
        text = self._chance.choice(
            [self._bytes(255), b"text", "é🔥".encode(), b"\xff" * 255, b"a\r\nb\x00\x1b[2J", b""]
        )
        return bytes([len(text)]) + text

    def _time(self) -> bytes:
        return struct.pack(">Q", self._chance.choice([*TIMES, self._chance.getrandbits(64)]))

    def _table(self, depth: int) -> bytes:
        entries = b"".join(self._entry(depth) for _ in range(self._chance.randint(0, 4)))
        return struct.pack(">L", len(entries)) + entries

    def _entry(self, depth: int) -> bytes:
        name = self._chance.choice([*NAMES, self._bytes(20)])
        return bytes([len(name)]) + name + self._value(depth)

    def _value(self, depth: int) -> bytes:
        chance = self._chance
        kind = chance.choice("SIDTbBdflstVxui" + ("FA" if depth else ""))
        match kind:
            case "S" | "x":
                value = chance.choice([self._bytes(300), b"2026-01-01T00:00:00", b"not-json", b""])
                data = struct.pack(">L", len(value)) + value
            case "F":
                data = self._table(depth - 1)
            case "A":
                items = b"".join(self._value(depth - 1) for _ in range(chance.randint(0, 4)))
                data = struct.pack(">L", len(items)) + items
            case "T":
                data = self._time()
            case "f" | "d":
                data = struct.pack(f">{kind}", chance.choice([0.0, -1.5, 3e38]))
            case "V":
                data = b""
            case _:
                data = self._bytes(8, least=8)[: {"D": 5, "I": 4, "i": 4, "l": 8, "s": 2, "u": 2}.get(kind, 1)]
        return kind.encode() + data


async def publish(channel: RawChannel, messages: Sequence[Message], *, exchange: str) -> None:
    """Publish and wait for every confirmation."""
    for start in range(0, len(messages), AT_ONCE):
        await asyncio.gather(
            *(
                channel.basic_publish(one.body, exchange=exchange, properties=one.properties, mandatory=True)
                for one in messages[start : start + AT_ONCE]
            )
        )
