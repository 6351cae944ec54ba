"""Messages in frames of ours: byte by byte what pika would write."""

from collections.abc import Sequence
from typing import Any

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import ShortStringTooLong
from pika.spec import Basic

from invalidator.broker.publish.frames import AROUND, message_frames
from invalidator.broker.publish.pipelined_publisher import OneWriteConnection

FRAME_MAX = 131_072
PUBLISH = Basic.Publish(exchange="product.updates", routing_key="", mandatory=True)
EVENT = {
    "content_type": "application/json",
    "delivery_mode": 2,
    "message_id": "7f3b",
    "timestamp": 1_795_000_000,
    "headers": {"timestamp_in_ms": 1_795_000_000_123, "x-invalidator-number": "9f3a2c11d04b-0000000811"},
    "type": "product_updated",
    "app_id": "shop",
}


class Written:
    """A connection that keeps what would be written."""

    def __init__(self) -> None:
        self.params = pika.ConnectionParameters(frame_max=FRAME_MAX)
        self._body_max_length = FRAME_MAX - AROUND
        self.frames: list[bytes] = []

    def _output_marshaled_frames(self, frames: Sequence[bytes]) -> None:
        self.frames += frames


class Pika(Written, AsyncioConnection):  # type: ignore[misc]  # pika is not typed
    """pika's own way; nothing is connected."""


class Ours(Written, OneWriteConnection):
    """Ours."""


def written(connection: Written, body: bytes, properties: dict[str, Any]) -> bytes:
    connection._send_message(7, PUBLISH, (pika.BasicProperties(**properties), body))  # type: ignore[attr-defined]
    return b"".join(connection.frames)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        EVENT,
        *({name: value} for name, value in EVENT.items()),
        EVENT | {"type": "größe:公開", "message_id": "ä"},
        EVENT | {"type": "", "app_id": "", "message_id": ""},
        EVENT | {"headers": {}},
        EVENT | {"headers": {"a": None, "b": True, "c": 1, "d": -1, "e": 2**31 - 1, "f": 2**31, "g": -(2**40)}},
        EVENT | {"headers": {"list": [1, "two", {"three": 3}], "bytes": b"\0\xff", "größe": "公"}},
        EVENT | {"reply_to": "amq.rabbitmq.reply-to", "correlation_id": "1"},
        *(
            EVENT | {name: "1"}
            for name in ("content_encoding", "correlation_id", "reply_to", "expiration", "user_id", "cluster_id")
        ),
        EVENT | {"priority": 0},
    ],
)
def test_frames_are_those_of_pika(properties: dict[str, Any]) -> None:
    for _ in range(2):  # the second time from what was remembered
        assert written(Pika(), b"{}", properties) == written(Ours(), b"{}", properties)


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - AROUND, FRAME_MAX - AROUND + 1, 3 * FRAME_MAX])
def test_a_body_of_any_size_is_sent_as_pika_would(size: int) -> None:
    assert written(Pika(), b"x" * size, EVENT) == written(Ours(), b"x" * size, EVENT)


def test_a_message_is_one_piece() -> None:
    connection = Ours()
    written(connection, b"{}", EVENT)
    assert 1 == len(connection.frames)


@pytest.mark.parametrize("name", ["type", "message_id", "app_id", "content_type"])
def test_a_text_that_amqp_has_no_room_for_is_refused(name: str) -> None:
    with pytest.raises(ShortStringTooLong):
        written(Ours(), b"{}", EVENT | {name: "x" * 256})


def test_another_channel_exchange_or_flag_is_another_method() -> None:
    methods = {
        message_frames(channel, Basic.Publish(exchange=exchange, mandatory=mandatory), pika.BasicProperties(), b"x")
        for channel in (1, 2)
        for exchange in ("a", "b")
        for mandatory in (True, False)
    }
    assert 8 == len(methods)
