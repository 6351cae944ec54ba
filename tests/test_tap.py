"""The tap against pamqp: of any frames, cut anywhere, it takes our deliveries and hands on the rest."""

import asyncio
import datetime as dt
import struct
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, header, heartbeat

from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.guard import header_of
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.broker.wire.tap import MalformedFrameError, Tap
from invalidator.broker.wire.transport import HEARTBEAT, HEARTBEAT_SECONDS, TappedProtocol

OURS, TAG = 3, "invalidator.eu.host.1"
FRAME_MAX = 64

short = st.text(max_size=20)
#: Names of exchanges that pamqp accepts.
name = st.text("abc.:-_", max_size=20)
properties = st.builds(
    commands.Basic.Properties,
    content_type=st.none() | short,
    content_encoding=st.none() | short,
    headers=st.none()
    | st.dictionaries(
        st.text(min_size=1, max_size=8) | st.just("ce-specversion"), st.integers(0, 9) | short, max_size=3
    ),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 9),
    correlation_id=st.none() | short,
    reply_to=st.none() | short,
    expiration=st.none() | short,
    message_id=st.none() | short,
    timestamp=st.none() | st.just(dt.datetime(2026, 11, 23, tzinfo=dt.UTC)),
    message_type=st.none() | short,
    app_id=st.none() | short,
)
message = st.tuples(
    st.integers(1, 2**63 - 1), st.booleans(), name, name, properties, st.binary(max_size=3 * FRAME_MAX) | st.just(b"")
)
ours = st.tuples(st.just("ours"), message)
others = st.tuples(
    st.just("other"),
    st.sampled_from(
        [
            (heartbeat.Heartbeat(), 0),
            (commands.Connection.Blocked("memory"), 0),
            (commands.Channel.Flow(True), OURS),
            (commands.Basic.Cancel("another"), OURS),
            (commands.Channel.Close(404, "NOT_FOUND", 0, 0), OURS),
            (commands.Basic.ConsumeOk(TAG), OURS),
            (commands.Basic.Ack(7, True), 1),
            (commands.Queue.DeclareOk("q", 1, 1), 2),
        ]
    ),
)
foreign = st.tuples(st.just("foreign"), message)


def frames_of(one: tuple[Any, ...], *, channel: int, consumer: str) -> list[bytes]:
    """Return a delivery as the broker would send it, its body split at a small frame size."""
    tag, redelivered, exchange, routing_key, wanted, content = one
    parts: list[Any] = [
        commands.Basic.Deliver(consumer, tag, redelivered, exchange, routing_key),
        header.ContentHeader(body_size=len(content), properties=wanted),
        *(body.ContentBody(content[at : at + FRAME_MAX]) for at in range(0, len(content), FRAME_MAX)),
    ]
    return [pamqp.frame.marshal(part, channel) for part in parts]


@given(st.lists(ours | others | foreign, max_size=12), st.data())
def test_it_takes_exactly_our_deliveries_and_hands_on_exactly_the_rest(events: list[Any], data: st.DataObject) -> None:
    stream, passed, expected = [], [], []
    for kind, what in events:
        if kind == "other":
            frame = pamqp.frame.marshal(*what)
            stream.append(frame)
            passed.append(frame)
        elif kind == "foreign":  # another consumer on our channel, or ours on another channel
            channel, consumer = data.draw(st.sampled_from([(OURS, "another"), (OURS + 1, TAG)]))
            frames = frames_of(what, channel=channel, consumer=consumer)
            stream += frames
            passed += frames
        else:
            expected.append(what)
            for frame in frames_of(what, channel=OURS, consumer=TAG):
                stream.append(frame)
                if data.draw(st.booleans()):  # other channels' frames may come between those of a delivery
                    between = pamqp.frame.marshal(commands.Basic.Ack(1, False), 1)
                    stream.append(between)
                    passed.append(between)
    whole = b"".join(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))

    taken: list[Delivery] = []
    tap = Tap()
    tap.watch(OURS, TAG, taken.extend)
    rest = b"".join(tap.feed(whole[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True))

    assert with_properties_as_they_came(rest) == b"".join(passed)
    for delivery, (tag, _, exchange, _, wanted, content) in zip(taken, expected, strict=True):
        decoded = as_pamqp_reads(header.ContentHeader(body_size=len(content), properties=wanted))
        assert (delivery.tag, delivery.exchange, delivery.body) == (tag, exchange, content)
        assert dict(delivery.properties) == dict(decoded)
        assert delivery.meaning()[:3] == (decoded.message_type, decoded.content_encoding, decoded.message_id)
        assert delivery.meaning()[3] == (decoded.headers if "ce-specversion" in (decoded.headers or ()) else None)
        assert delivery.meaning()[4] == decoded.content_type


#: Headers that could be mistaken for each other: equally long, differing in what may differ, and in what may not.
alike = st.builds(
    commands.Basic.Properties,
    content_type=st.sampled_from(["a/json", "b/json"]),
    content_encoding=st.sampled_from([None, "utf8", "gzip"]),
    headers=st.fixed_dictionaries(
        {"timestamp_in_ms": st.integers(2**40, 2**40 + 3)},
        optional={"x": st.sampled_from(["one", "two", "\x0ftimestamp_in_msl"]), "ce-specversion": st.just("1.0")},
    ),
    correlation_id=st.sampled_from(["7", "77"]),
    message_id=st.sampled_from([None, "id-1", "id-2", "id-33"]),
    timestamp=st.sampled_from([None, *(dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2))]),
    message_type=st.sampled_from([None, "moved", "shown"]),
    app_id=st.sampled_from(["shop", "post"]),
)


@given(st.lists(alike, min_size=2, max_size=20))
def test_headers_that_are_nearly_alike_are_never_taken_for_one_another(alikes: list[commands.Basic.Properties]) -> None:
    for properties in alikes:
        content_header = header.ContentHeader(body_size=1, properties=properties)
        payload = content_header.marshal()[FLAGS_AT:]
        written = (properties.message_type, properties.content_encoding, properties.message_id)
        read = Delivery(bytes(11), payload, b"1").meaning()
        assert (*written, "ce-specversion" in (properties.headers or {})) == (*read[:3], read[3] is not None)
        assert read[4] == properties.content_type


def with_properties_as_they_came(stream: bytes) -> bytes:
    """Return the frames that aiormq gets, with the properties of content headers where they were before the guard."""
    frames: list[bytes] = []
    while stream:
        consumed, channel, frame = pamqp.frame.unmarshal(stream)
        if isinstance(frame, header.ContentHeader):
            raw = header_of(SimpleNamespace(header=frame))  # type: ignore[arg-type]
            payload = stream[7 : 7 + FLAGS_AT] + raw
            frames.append(struct.pack(">BHL", 2, channel, len(payload)) + payload + b"\xce")
        else:
            frames.append(stream[:consumed])
        stream = stream[consumed:]
    return b"".join(frames)


def as_pamqp_reads(written: header.ContentHeader) -> commands.Basic.Properties:
    _, _, frame = pamqp.frame.unmarshal(pamqp.frame.marshal(written, OURS))
    assert isinstance(frame, header.ContentHeader)
    return frame.properties


def test_before_it_watches_anything_all_frames_are_handed_on() -> None:
    frames = b"".join(frames_of((1, False, "x", "", commands.Basic.Properties(), b"1"), channel=OURS, consumer=TAG))
    assert with_properties_as_they_came(Tap().feed(frames)) == frames


def test_consumers_on_several_channels_each_get_their_own_and_a_closed_one_nothing_more() -> None:
    def message(channel: int, consumer: str, tag: int) -> bytes:
        one = (tag, False, "x", "", commands.Basic.Properties(), b"1")
        return b"".join(frames_of(one, channel=channel, consumer=consumer))

    events: list[Delivery] = []
    debts: list[Delivery] = []
    to_events, to_debts = events.extend, debts.extend
    tap = Tap()
    tap.watch(1, "events", to_events)
    tap.watch(2, "debts", to_debts)
    assert tap.feed(message(1, "events", 7) + message(2, "debts", 8)) == b""
    assert ([one.tag for one in events], [one.tag for one in debts]) == ([7], [8])

    tap.unwatch(2, to_events)  # another consumer's, so the watch stays
    assert tap.feed(message(2, "debts", 9)) == b""
    tap.unwatch(2, to_debts)
    assert with_properties_as_they_came(tap.feed(message(2, "debts", 10))) == message(2, "debts", 10)
    assert [one.tag for one in debts] == [8, 9]


deliver = pamqp.frame.marshal(commands.Basic.Deliver(TAG, 1, False, "x", ""), OURS)
content_header = pamqp.frame.marshal(header.ContentHeader(body_size=2), OURS)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (deliver[:-1] + b"\x00", "a frame ends with 0x0"),
        (b"\x01\x00\x03\xff\xff\xff\xff" + b"x" * 10, "a frame of 4294967295 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, "a frame of"),
        (deliver + deliver, "a frame of type 1 and 38 bytes within"),
        (deliver + pamqp.frame.marshal(body.ContentBody(b"1"), OURS), "a frame of type 3 and 1 bytes within"),
        (deliver + content_header + content_header, "a frame of type 2 and 14 bytes within"),
        (deliver + content_header + pamqp.frame.marshal(body.ContentBody(b"123"), OURS), "a frame of type 3 and 3"),
        (deliver + pamqp.frame.marshal(commands.Channel.Flow(True), OURS), "a frame of type 1"),
        (deliver + b"\x02\x00\x03\x00\x00\x00\x02ab\xce", "a content header is too short"),
    ],
)
def test_malformed_frames_are_refused_and_nothing_is_guessed(stream: bytes, why: str) -> None:
    taken: list[Delivery] = []
    tap = Tap()
    tap.watch(OURS, TAG, taken.extend)
    with pytest.raises(MalformedFrameError, match=why):
        tap.feed(stream)
    assert taken == []


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_malformed_frame_is_found_in_a_delivery_behind_others_like_it_too(broken: int) -> None:
    frames = [deliver, content_header, pamqp.frame.marshal(body.ContentBody(b"12"), OURS)]
    last = [frame[:-1] + b"\x00" if number == broken else frame for number, frame in enumerate(frames)]
    tap = Tap()
    tap.watch(OURS, TAG, lambda _: None)
    with pytest.raises(MalformedFrameError, match="a frame ends with 0x0"):
        tap.feed(b"".join([*frames, *frames, *last]))


class Socket(asyncio.Transport):
    """A socket that records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def abort(self) -> None:
        self.asked.append("abort")

    def pause_reading(self) -> None:
        self.asked.append("pause")

    def resume_reading(self) -> None:
        self.asked.append("resume")

    def is_closing(self) -> bool:
        return False


class Clock(asyncio.SelectorEventLoop):
    """A loop with a clock that the test moves."""

    now = 0.0

    def time(self) -> float:
        return self.now


def connected(loop: Clock) -> tuple[TappedProtocol, asyncio.StreamReader, Socket]:
    reader, socket = asyncio.StreamReader(loop=loop), Socket()
    protocol = TappedProtocol(reader, loop)
    protocol.connection_made(socket)
    protocol.tap.watch(OURS, TAG, lambda _: None)
    return protocol, reader, socket


def buffered(reader: asyncio.StreamReader) -> bytes:
    return bytes(reader._buffer)  # type: ignore[attr-defined]


@pytest.fixture
def loop() -> Any:
    loop = Clock()
    yield loop
    loop.close()


def test_a_busy_connection_is_kept_alive_for_aiormq_by_one_heartbeat_a_second(loop: Clock) -> None:
    protocol, reader, _ = connected(loop)
    whole = deliver + content_header + pamqp.frame.marshal(body.ContentBody(b"12"), OURS)
    protocol.data_received(whole)
    assert buffered(reader) == b""
    loop.now += HEARTBEAT_SECONDS + 0.1
    for _ in range(3):
        protocol.data_received(whole)
    assert buffered(reader) == HEARTBEAT


def test_a_malformed_frame_ends_the_connection_with_an_error_for_aiormq(loop: Clock) -> None:
    protocol, reader, socket = connected(loop)
    protocol.data_received(deliver[:-1] + b"\x00")
    assert socket.asked == ["abort"]
    assert "malformed: a frame ends with 0x0" in str(reader.exception())


def test_while_reading_is_paused_aiormq_is_kept_alive_and_reading_is_resumed_once(loop: Clock) -> None:
    protocol, reader, socket = connected(loop)
    protocol.pause()
    protocol.pause()
    assert (socket.asked, buffered(reader)) == (["pause"], HEARTBEAT)
    protocol.resume()
    protocol.resume()
    assert socket.asked == ["pause", "resume"]
