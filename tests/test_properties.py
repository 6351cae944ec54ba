"""Properties of any publisher: one by one, compared with pamqp where it can read them, and copied byte by byte."""

import datetime as dt
import struct
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pamqp.decode
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from invalidator.broker.wire.guard import guarded, header_of
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.broker.wire.properties import DEPTH, UnreadableProperty, copy_of, entries, read, split

Properties = commands.Basic.Properties
FIRST, LAST = dt.datetime(1971, 1, 1), dt.datetime(2100, 1, 1)  # noqa: DTZ001  as Hypothesis takes them
short = st.text(max_size=20)
#: Values of a table that pamqp writes and reads.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, width=32)
    | st.datetimes(FIRST, LAST, timezones=st.just(dt.UTC))
    | st.binary(max_size=20).map(bytearray),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
any_properties = st.builds(
    Properties,
    content_type=st.none() | short,
    content_encoding=st.none() | short,
    headers=st.none() | st.dictionaries(st.text(max_size=8), values, max_size=4),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | short,
    reply_to=st.none() | short,
    expiration=st.none() | short,
    message_id=st.none() | short,
    timestamp=st.none() | st.datetimes(FIRST, LAST, timezones=st.just(dt.UTC)),
    message_type=st.none() | short,
    user_id=st.none() | short,
    app_id=st.none() | short,
)


def wire(properties: Properties) -> bytes:
    return header.ContentHeader(properties=properties).marshal()[FLAGS_AT:]


def as_pamqp_reads(payload: bytes) -> dict[str, Any]:
    content = header.ContentHeader()
    content.unmarshal(bytes(FLAGS_AT) + payload)
    return dict(content.properties)


def table(*items: bytes) -> bytes:
    return struct.pack(">L", len(b"".join(items))) + b"".join(items)


def entry(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + value


def with_headers(*items: bytes, **others: Any) -> bytes:
    """Return a header with these entries in its table, and other properties, all of which belong behind it."""
    rest = wire(Properties(**others))
    flags = struct.unpack(">H", rest[:2])[0] | Properties.flags["headers"]
    return struct.pack(">H", flags) + table(*items) + rest[2:]


@given(any_properties)
def test_what_pamqp_can_read_is_read_as_pamqp_reads_it(properties: Properties) -> None:
    payload = wire(properties)
    found = read(payload)
    assert as_pamqp_reads(payload) == dict(found.properties)
    assert {} == found.unreadable


#: In microseconds and nanoseconds of 2026, before 1970, and in the year 1.
OUT_OF_RANGE = [1_779_000_000_000_000, 1_779_000_000_000_000_000, 2**64 - 1, 2**64 - 62_135_596_800]


@pytest.mark.parametrize("seconds", OUT_OF_RANGE)
def test_a_timestamp_out_of_range_costs_no_other_property(seconds: int) -> None:
    raw = struct.pack(">Q", seconds)
    written = wire(Properties(timestamp=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), message_type="moved", app_id="shop"))
    at = 2
    payload = written[:at] + raw + written[at + 8 :]
    with pytest.raises((ValueError, OverflowError)):
        as_pamqp_reads(payload)
    found = read(payload)
    assert (None, "moved", "shop") == (
        found.properties.timestamp,
        found.properties.message_type,
        found.properties.app_id,
    )
    assert {"timestamp": f"unreadable (0x{raw.hex()})"} == {
        name: str(value) for name, value in found.unreadable.items()
    }


@pytest.mark.parametrize("seconds", OUT_OF_RANGE)
def test_a_header_with_a_time_out_of_range_costs_no_other_header(seconds: int) -> None:
    time = entry(b"at", b"T" + struct.pack(">Q", seconds))
    found = read(with_headers(time, entry(b"n", b"b\x07"), message_type="moved"))
    assert {"at": UnreadableProperty(struct.pack(">Q", seconds)), "n": 7} == found.properties.headers
    assert "moved" == found.properties.message_type


def test_milliseconds_are_a_time_as_pamqp_takes_them() -> None:
    payload = with_headers(entry(b"at", b"T" + struct.pack(">Q", 1_779_000_000_123)))
    assert {"at": dt.datetime(2026, 5, 17, 6, 40, 0, 123000, dt.UTC)} == read(payload).properties.headers


@pytest.mark.parametrize("name", ["content_type", "correlation_id", "message_id", "message_type", "app_id"])
def test_a_string_that_is_not_utf_8_is_unreadable_and_costs_no_other(name: str) -> None:
    written: dict[str, Any] = {name: "xx", "user_id": "there"}
    raw = wire(Properties(**written)).replace(b"xx", b"\xff\xfe")
    found = read(raw)
    assert {name: UnreadableProperty(b"\xff\xfe")} == found.unreadable
    assert "there" == found.properties.user_id


def test_names_of_headers_and_long_strings_may_be_any_bytes() -> None:
    payload = with_headers(entry(b"caf\xe9", b"S" + struct.pack(">L", 2) + b"\xff\xfe"), entry(b"n", b"V"))
    assert {"caf\\xe9": b"\xff\xfe", "n": None} == read(payload).properties.headers


def test_decimals_of_any_scale_are_read() -> None:
    payload = with_headers(entry(b"a", b"D\x02" + struct.pack(">L", 999)), entry(b"b", b"D\xff" + struct.pack(">L", 1)))
    assert {"a": Decimal("9.99"), "b": Decimal("1e-255")} == read(payload).properties.headers


def test_tables_nested_too_deeply_are_unreadable_from_there_on() -> None:
    nested = b""
    for _ in range(10_000):
        nested = entry(b"a", b"F" + struct.pack(">L", len(nested)) + nested)
    payload = with_headers(nested, entry(b"n", b"b\x07"), message_type="moved")
    properties = read(payload).properties
    assert properties.headers
    assert (7, "moved") == (properties.headers["n"], properties.message_type)
    value: Any = properties.headers["a"]
    for _ in range(DEPTH):
        value = value["a"]
    assert isinstance(value, UnreadableProperty)
    assert str(value).endswith("…)")


@pytest.mark.parametrize("value", [b"?1234", b"S\x00\x00\x01\x00abc", b"T123", b"A\x00\x00\x00\x09", b""])
def test_a_value_whose_end_cannot_be_found_is_unreadable_with_the_rest_of_its_table(value: bytes) -> None:
    found = read(with_headers(entry(b"n", b"b\x07"), entry(b"x", value), message_type="moved"))
    assert {"n": 7, "x": UnreadableProperty(value)} == found.properties.headers
    assert "moved" == found.properties.message_type


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_it_fail(payload: bytes) -> None:
    read(payload)
    copy_of(payload, ["headers", "timestamp"], left_out=lambda _: False, headers={"x": "y"}).marshal()


@given(any_properties)
def test_a_copy_is_written_as_it_came(properties: Properties) -> None:
    payload = wire(properties)
    assert payload == copy_of(payload, Properties.__slots__, left_out=lambda _: False, headers={}).marshal()


def test_a_copy_keeps_what_cannot_be_read_and_has_headers_of_its_own() -> None:
    strange = entry(b"caf\xe9", b"T" + b"\xff" * 8)
    payload = with_headers(
        strange, entry(b"CC", b"A" + table()), entry(b"x", b"b\x01"), app_id="shop", message_type="a"
    )
    copy = copy_of(payload, ["app_id"], left_out=lambda name: name == "CC", headers={"x": "mine"}, message_id="7")
    parts = split(copy.marshal())
    assert {"app_id", "headers", "message_id"} == parts.keys()
    assert [strange, entry(b"x", b"S" + table(b"mine"))] == [found.raw for found in entries(parts["headers"])]
    assert (b"\x01" + b"7", "7") == (parts["message_id"], copy.message_id)
    assert {"caf\\xe9": UnreadableProperty(b"\xff" * 8), "x": "mine"} == copy.headers


@given(st.binary(min_size=2, max_size=100), st.integers(0, 2**63))
def test_no_header_keeps_aiormq_from_reading_its_frame(payload: bytes, size: int) -> None:
    _, channel, frame = pamqp.frame.unmarshal(guarded(2, 7, struct.pack(">HHQ", 60, 0, size) + payload))
    assert isinstance(frame, header.ContentHeader)
    assert (7, size, payload) == (channel, frame.body_size, header_of(SimpleNamespace(header=frame)))  # type: ignore[arg-type]


def test_a_returned_message_keeps_the_id_by_which_aiormq_finds_it() -> None:
    payload = with_headers(entry(b"at", b"T" + b"\xff" * 8), message_id="4711")
    _, _, frame = pamqp.frame.unmarshal(guarded(2, 1, struct.pack(">HHQ", 60, 0, 1) + payload))
    assert isinstance(frame, header.ContentHeader)
    assert "4711" == frame.properties.message_id


CONTENT_METHODS = [
    commands.Basic.Deliver("tag", 200, True, "x" * 100, "y" * 150),
    commands.Basic.GetOk(200, True, "x" * 100, "y" * 150, 3),
    commands.Basic.Return(312, "NO_ROUTE", "x" * 100, "y" * 150),
]


@pytest.mark.parametrize("method", CONTENT_METHODS)
def test_names_that_are_not_utf_8_reach_aiormq_in_ascii(method: pamqp.frame.FrameTypes) -> None:
    frame = pamqp.frame.marshal(method, 1)
    payload = frame[7:-1].replace(b"x" * 100, b"\xff" * 100).replace(b"y" * 150, b"\xc3\xa9" * 75)
    _, _, found = pamqp.frame.unmarshal(guarded(1, 1, payload))
    expected = dict(cast(Any, method)) | {"exchange": "?" * 100, "routing_key": "?" * 150}
    assert expected == dict(cast(Any, found))


@pytest.mark.parametrize("method", [*CONTENT_METHODS, commands.Basic.Ack(200, True), commands.Connection.CloseOk()])
def test_other_methods_reach_aiormq_as_they_came(method: pamqp.frame.FrameTypes) -> None:
    frame = pamqp.frame.marshal(method, 1)
    assert frame == guarded(1, 1, frame[7:-1])
