"""Guards of the bytes: the tap, the fence, the ring. Each test is red without the line that it names."""

import struct
from datetime import UTC, datetime
from typing import Any

import pamqp.frame
import pytest
from pamqp import body, commands, header

from invalidator.broker.wire import tap as module
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FORM_BYTES, FORMS, Properties, forms, learn
from invalidator.broker.wire.number import BEGINNING, LENGTH, NUMBER, in_text
from invalidator.broker.wire.tap import SHAPES, MalformedFrameError, Tap
from invalidator.broker.wire.timestamp import MILLISECONDS, stamp
from invalidator.errors import PoisonError
from invalidator.memcached.connection import Connection
from invalidator.memcached.ring import Ketama, Rendezvous, ring_of
from invalidator.memcached.wire import LONGEST_KEY, chunks, deletes, flush
from tests.test_memcached_connection import Line, Recorder
from tests.test_tap import OURS, TAG, frames_of

PLAIN = commands.Basic.Properties()
#: The beginning of the header that says when a message was published.
TIME = chr(len(MILLISECONDS)) + MILLISECONDS + "l"


def message(content: bytes, *, routing_key: str = "") -> bytes:
    return b"".join(frames_of((1, False, "x", routing_key, PLAIN, content), channel=OURS, consumer=TAG))


class Taken:
    """A tap, its deliveries, and the number of frames that were taken one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deliveries: list[Delivery] = []
        self.hand_overs = 0
        self.slowly = 0
        self.tap = Tap()
        self.tap.watch(OURS, TAG, self._receive)
        take = module._Watch.take

        def counted(watch: module._Watch, kind: int, buffer: bytes, start: int, stop: int) -> bool:
            self.slowly += 1
            return take(watch, kind, buffer, start, stop)

        monkeypatch.setattr(module._Watch, "take", counted)

    def _receive(self, deliveries: list[Delivery]) -> None:
        self.hand_overs += 1
        self.deliveries += deliveries

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def test_whole_deliveries_are_taken_in_one_piece_whatever_their_shapes(taken: Taken) -> None:
    contents = [b"1", b"2", b"333", b"4", b"55555", b"6", b"7"]
    stream = [
        message(content, routing_key=key)
        for content, key in zip(contents, ["", "", "a", "bb", "", "a", "a"], strict=True)
    ]
    taken.tap.feed(b"".join(stream))
    assert (contents, 0) == (taken.bodies, taken.slowly)


def test_a_delivery_in_pieces_is_taken_frame_by_frame_and_the_next_one_whole_again(taken: Taken) -> None:
    one, two = message(b"1"), message(b"2")
    taken.tap.feed(one + two[:-1])
    assert ([b"1"], 2) == (taken.bodies, taken.slowly)
    taken.tap.feed(two[-1:] + one)
    assert ([b"1", b"2", b"1"], 3) == (taken.bodies, taken.slowly)


@pytest.mark.parametrize("size", [0, 1, 64, 65, 128, 129, 192])
def test_a_body_is_all_of_its_frames(size: int, taken: Taken) -> None:
    content = bytes(index % 251 for index in range(size))
    taken.tap.feed(message(content))
    assert [content] == taken.bodies


def test_a_body_in_several_frames_behind_a_whole_delivery_like_it_repeats_nothing(taken: Taken) -> None:
    content = bytes(100)
    taken.tap.feed(message(b"1") + message(content) + message(b"2"))
    assert [b"1", content, b"2"] == taken.bodies


def test_shapes_that_change_with_each_message_do_not_pile_up(taken: Taken) -> None:
    watch = taken.tap._watches[OURS]
    for length in range(1, 256):
        for headers in (PLAIN, commands.Basic.Properties(message_id="7")):
            one = frames_of((1, False, "x", "k" * length, headers, b"1"), channel=OURS, consumer=TAG)
            taken.tap.feed(b"".join(one))
            assert len(watch._shapes) <= SHAPES
    assert SHAPES / 2 < len(watch._shapes)
    assert 2 * 255 == len(taken.bodies)


def test_bytes_without_a_delivery_hand_nothing_over(taken: Taken) -> None:
    taken.tap.feed(message(b"1")[:-1])
    assert 0 == taken.hand_overs


def test_a_frame_of_ours_behind_others_of_its_channel_is_found(taken: Taken) -> None:
    other = pamqp.frame.marshal(commands.Basic.Cancel("another"), OURS)
    assert other * 2 == taken.tap.feed(message(b"1") + other + message(b"2") + other + message(b"3"))
    assert [b"1", b"2", b"3"] == taken.bodies


def method(payload: bytes, channel: int) -> bytes:
    return struct.pack(">BHL", 1, channel, len(payload)) + payload + b"\xce"


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (method(module.DELIVER, 1), "a method is too short"),
        (
            method(module.DELIVER + bytes([len(TAG)]) + TAG.encode() + b"\x00" * 10, OURS),
            "a Basic.Deliver is too short",
        ),
    ],
)
def test_a_method_that_is_cut_off_ends_the_connection(stream: bytes, why: str, taken: Taken) -> None:
    with pytest.raises(MalformedFrameError, match=why):
        taken.tap.feed(stream)


def test_a_body_alone_is_passed_on_as_it_is(taken: Taken) -> None:
    frames = pamqp.frame.marshal(body.ContentBody(b"not ours"), 1)
    assert frames == taken.tap.feed(frames)


def test_a_delivery_whose_body_has_another_length_than_its_header_says_is_refused(taken: Taken) -> None:
    begins = pamqp.frame.marshal(commands.Basic.Deliver(TAG, 1, False, "x", ""), OURS)
    headed = pamqp.frame.marshal(header.ContentHeader(body_size=1), OURS)
    with pytest.raises(MalformedFrameError, match="a frame of type 3 and 2 bytes"):
        taken.tap.feed(message(b"1") + begins + headed + pamqp.frame.marshal(body.ContentBody(b"12"), OURS))


# The fence


def test_as_many_keys_as_fit_are_one_chunk_and_one_more_is_the_next() -> None:
    keys = [b"%d" % index for index in range(5)]
    assert [keys[:4], keys[4:]] == [list(chunk.keys) for chunk in chunks(keys, size=4)]
    [chunk] = chunks(keys[:4], size=4)
    assert chunk.keys is not None
    assert keys[:4] == list(chunk.keys)


def test_a_flush_is_the_command_and_nothing_before_it() -> None:
    assert flush().request.startswith(b"flush_all noreply\r\nmd ")


def test_no_keys_are_no_command() -> None:
    assert b"" == deletes([])


@pytest.mark.parametrize("prefix", [b"", b"shop:"])
def test_the_longest_key_is_deleted_and_beside_a_longer_one_it_is_not_blamed(prefix: bytes) -> None:
    longest = b"k" * (LONGEST_KEY - len(prefix))
    assert b"delete " + prefix + longest + b" noreply\r\n" == deletes([longest], prefix=prefix)
    with pytest.raises(PoisonError, match=f"{longest.decode()}x' is over 250 bytes"):
        deletes([longest, longest + b"x"], prefix=prefix)


# The connection


def test_without_a_transport_a_connection_has_no_peer() -> None:
    assert Connection(Recorder()).peer is None


@pytest.mark.parametrize(("address", "expected"), [(("10.0.0.1", 11211), "10.0.0.1"), ("", None), (None, None)])
def test_the_peer_is_an_ip_address_and_none_on_a_unix_socket(address: object, expected: str | None) -> None:
    line = Line(0)
    line.transport._extra = {"peername": address}  # type: ignore[attr-defined]
    assert expected == line.connection.peer


# The ring


def test_each_kind_is_the_ring_of_its_library() -> None:
    labels = ["a:11211", "b:11211", "c:11211"]
    assert isinstance(ring_of("rendezvous", labels), Rendezvous)
    for kind in ("ketama", "ketama-md5", "ketama-weighted"):
        ring = ring_of(kind, labels)
        assert isinstance(ring, Ketama)
        assert Ketama(labels, kind)._points_in_order == ring._points_in_order


@pytest.mark.parametrize(
    ("kind", "nodes", "points"),
    [("ketama", 3, 300), ("ketama-md5", 3, 300), ("ketama-weighted", 3, 480), ("ketama-weighted", 25, 25 * 156)],
)
def test_a_ring_has_as_many_points_as_libmemcached_gives_it(kind: str, nodes: int, points: int) -> None:
    ring = Ketama([f"node-{index}:11211" for index in range(nodes)], kind)  # type: ignore[arg-type]
    assert points == len(ring._points_in_order)


def test_headers_that_differ_in_id_times_and_number_have_one_form() -> None:
    def header(second: int) -> bytes:
        at = datetime(2026, 5, 17, 9, 0, second, tzinfo=UTC)
        properties = Properties(
            content_type="application/json",
            headers={**stamp(at), NUMBER: in_text("9f3a2c11d04b", second)},
            message_id=f"event-{second:02}",
            timestamp=at,
            message_type="product_updated",
            app_id="shop",
        )
        return properties.marshal()

    one, other = learn(header(1)), learn(header(2))
    assert (one.start, one.between, one.middle, one.end) == (other.start, other.between, other.middle, other.end)
    assert b"\x0fproduct_updated\x04shop" == one.end


@pytest.mark.parametrize("left", range(LENGTH + 1))
def test_a_text_that_begins_like_an_events_number_and_ends_too_soon_is_no_number(left: int) -> None:
    forms.clear()
    properties = Properties(headers={"x": (BEGINNING + b"9" * left).decode()}, message_id="event-1")
    assert "event-1" == Delivery(b"\x00" * 11, properties.marshal(), b"{}").meaning()[2]


def test_a_number_before_the_time_is_read_like_any_other_header() -> None:
    forms.clear()
    at, number = datetime(2026, 5, 17, tzinfo=UTC), in_text("9f3a2c11d04b", 7)
    header = Properties(headers={NUMBER: number, **stamp(at)}, message_id="event-1").marshal()
    numbered = BEGINNING + number.encode()
    begin, end = header.index(b"\x0ftimestamp_in_ms"), header.index(numbered)
    swapped = header[:begin] + numbered + header[begin:end] + header[end + len(numbered) :]
    assert header != swapped
    assert "event-1" == Delivery(b"\x00" * 11, swapped, b"{}").meaning()[2]


def meanings(*several: Properties) -> list[tuple[str | None, ...]]:
    """Return type, encoding, id and content type of messages that are read one after another."""
    forms.clear()
    read = [Delivery(b"\x00" * 11, each.marshal(), b"{}").meaning() for each in several]
    return [(type, encoding, id, content_type) for type, encoding, id, _, content_type in read]


@pytest.mark.parametrize("left", range(9))
def test_a_text_that_begins_like_the_time_and_ends_too_soon_is_no_time(left: int) -> None:
    several = [Properties(headers={"x": TIME + "9" * left}, message_id="event-1")]
    assert [(None, None, "event-1", None)] == meanings(*several)


def test_headers_of_one_length_with_other_properties_have_other_meanings() -> None:
    several = Properties(content_type="gzip"), Properties(content_encoding="gzip")
    assert [(None, None, None, "gzip"), (None, "gzip", None, None)] == meanings(*several)


@pytest.mark.parametrize("headers", [stamp(datetime(2026, 5, 17, tzinfo=UTC)), {"x": TIME + "9999999"}], ids=str)
def test_an_id_of_another_length_behind_the_headers_moves_the_type(headers: dict[str, Any]) -> None:
    several = (
        Properties(headers=headers, message_id="abc", message_type="de"),
        Properties(headers=headers, message_id="x", message_type="y\x02de"),
    )
    assert [("de", None, "abc", None), ("y\x02de", None, "x", None)] == meanings(*several)


def test_a_long_header_is_not_remembered() -> None:
    meanings(Properties(headers={"x": "y" * FORM_BYTES}))
    assert {} == forms


def test_headers_with_nothing_but_a_time_have_one_form() -> None:
    meanings(*(Properties(headers=stamp(datetime(2026, 5, 17, 9, 0, second, tzinfo=UTC))) for second in range(2)))
    (form,) = forms.values()
    assert form.start.endswith(TIME.encode())


def test_forms_are_forgotten_before_they_are_too_many() -> None:
    meanings(*(Properties(message_id="x" * length) for length in range(200)))
    assert 200 == len(forms)
    for length in range(FORMS - 200 + 1):
        learn(Properties(content_type="y" * 250, app_id="x" * length).marshal())
    assert 1 == len(forms)
