"""The invariant: for any bytes, `decode` returns an event or raises `PoisonError`."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from invalidator.errors import PoisonError
from invalidator.events.debezium import TOMBSTONE
from invalidator.events.event import EVICT, Event, decode, encode
from invalidator.events.quoting import kind, quoted
from invalidator.events.rules import Rules
from invalidator.events.types import TypeSource

SCHEMA = json.loads(Path(__file__).parent.parent.joinpath("conf/event.schema.json").read_text())

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NESTED = b'{"type": "t", "a": ' + b"[" * 100_000


def refused(body: bytes, **properties: Any) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        decode(body, **properties)
    return caught.value


def test_event_holds_its_type_and_the_whole_object() -> None:
    body = b'{"type": "product_updated", "id": "abc-123", "price": 109.99}'
    fields = {"type": "product_updated", "id": "abc-123", "price": 109.99}
    assert Event("product_updated", fields) == decode(body)


@pytest.mark.parametrize("body", [b'{"id": 1}', b'{"type": null, "id": 1}', b'{"type": "", "id": 1}'])
def test_type_may_come_from_the_property(body: bytes) -> None:
    assert decode(body, type="product_updated").type == "product_updated"


@pytest.mark.parametrize("outside", ["a", "", None])
def test_type_in_the_body_may_be_repeated_in_the_property_or_not(outside: str | None) -> None:
    assert decode(b'{"type": "a"}', type=outside).type == "a"


@pytest.mark.parametrize(
    "encoding",
    [None, "", "utf-8", "UTF-8", "utf8", "utf-8-sig", "identity", "binary", "us-ascii", "ascii", "8bit", "7bit"],
)
def test_plain_encodings_are_read(encoding: str | None) -> None:
    assert decode(b'{"type": "a"}', encoding=encoding).type == "a"


@pytest.mark.parametrize(
    ("reason", "body", "properties"),
    [
        ("body-too-large", b'{"type": "a"}', {"limit": 12}),
        ("unknown-encoding", b'{"type": "a"}', {"encoding": "gzip"}),
        ("unknown-encoding", b'{"type": "a"}', {"encoding": "utf-16"}),
        ("unknown-encoding", '{"type": "a"}'.encode("utf-16"), {}),
        ("unknown-encoding", '{"type": "a"}'.encode("utf-16-be"), {}),
        ("unknown-encoding", '{"type": "a"}'.encode("utf-16-le"), {}),
        ("unknown-encoding", '{"type": "a"}'.encode("utf-32-be"), {}),
        ("unknown-encoding", gzip.compress(b'{"type": "a"}', mtime=0), {}),
        ("not-json", b"", {"type": "a"}),
        ("not-json", b"product 17 changed", {}),
        ("not-json", b'{"type": "a"', {}),
        ("not-json", b'{"type": "a"} {}', {}),
        ("not-json", b'{"type": "a", "price": NaN}', {}),
        ("not-json", b'{"type": "a", "name": "\\ud800"', {}),
        ("not-json", b'{"type": "a", "name": "\\ud800", "price": NaN}', {}),
        ("not-json", b'{"type": "a", "name": "\\ud800", "price": 1e999}', {}),
        ("not-json", b"\xef\xbb\xbf\xef\xbb\xbf{}", {}),
        ("wrong-type", b'{"type": "\\ud800"}', {}),
        ("bad-utf8", b'{"type": "a", "name": "\xed\xa0\xbd"}', {}),
        ("bad-utf8", b'{"type": "a", "name": "\xff"}', {}),
        ("bad-utf8", b'{"type": "a", "caf\xe9": 1}', {}),
        ("too-deep", NESTED, {}),
        ("too-deep", b"[" * 100_000, {}),
        ("not-an-object", b'["product_updated", 17]', {}),
        ("not-an-object", b"null", {"type": "a"}),
        ("no-type", b'{"id": 17}', {}),
        ("no-type", b'{"id": 17, "type": ""}', {"type": ""}),
        ("wrong-type", b'{"type": 17}', {}),
        ("wrong-type", b'{"type": false}', {"type": "a"}),
        ("wrong-type", b'{"type": "a", "id": ' + b"9" * 5000 + b"}", {}),
        ("wrong-type", b'{"type": "a", "price": 1e999}', {}),
        ("type-mismatch", b'{"type": "a"}', {"type": "b"}),
    ],
)
def test_poison_is_refused_with_its_reason(reason: str, body: bytes, properties: dict[str, Any]) -> None:
    assert reason == refused(body, **properties).reason


def test_a_byte_order_mark_is_skipped() -> None:
    assert decode(b"\xef\xbb\xbf" + b'{"type": "a", "id": "\\ud83d"}') == decode(b'{"type": "a", "id": "\\ud83d"}')
    assert "a" == decode(b"\xef\xbb\xbf" + b'{"type": "a"}').type


def test_half_a_surrogate_pair_stays_in_the_field_that_holds_it() -> None:
    body = b'{"type": "a", "id": 17, "name": "cheese \\ud83d", "price": 1.5, "x": "\\ud83e\\uddc0"}'
    fields = {"type": "a", "id": 17, "name": "cheese \ud83d", "price": 1.5, "x": "🧀"}
    assert Event("a", fields) == decode(body) == decode(body, type="a")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"type": "a"}'.encode("utf-16"), "the body is UTF-16: publish plain UTF-8 JSON"),
        ('{"type": "a"}'.encode("utf-32-be"), "the body is UTF-32"),
        (gzip.compress(b"{}", mtime=0), "the body is compressed with gzip"),
    ],
)
def test_a_body_that_is_not_utf8_is_named_as_what_it_is(body: bytes, says: str) -> None:
    assert says in str(refused(body))


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b'{"id": 1}', {"__TypeId__": "com.shop.Product"}, "the header '__TypeId__' is 'com.shop.Product'"),
        (b'{"id": 1}', {"type": "product_updated"}, "set events.type_header to 'type'"),
        (b'{"messageType": ["urn:message:Shop:Product"]}', {}, "the field 'messageType' is 'urn:message:Shop:Product'"),
        (b'{"job": "Product"}', None, "set events.type_field to 'job'"),
    ],
)
def test_an_event_without_a_type_names_what_could_be_it_and_where(body: bytes, headers: Any, says: str) -> None:
    error = refused(body, headers=headers)
    assert "no-type" == error.reason
    assert says in str(error)


@pytest.mark.parametrize(
    ("source", "body", "headers", "expected"),
    [
        (TypeSource(header="__TypeId__"), b'{"id": 1}', {"__TypeId__": "Product"}, "Product"),
        (TypeSource(header="__TypeId__"), b'{"id": 1, "type": "shirt"}', {"__TypeId__": "Product"}, "Product"),
        (TypeSource(header="__TypeId__"), b'{"id": 1, "type": "native"}', {}, "native"),
        (TypeSource(header="__TypeId__"), b'{"id": 1, "type": "native"}', {"__TypeId__": 7}, "native"),
        (TypeSource(field="messageType"), b'{"messageType": ["urn:a", "urn:b"]}', None, "urn:a"),
        (TypeSource(field="meta.type"), b'{"meta": {"type": "a"}, "type": "b"}', None, "a"),
        (TypeSource(field="meta.type"), b'{"meta": 3, "type": "b"}', None, "b"),
        (TypeSource(field="meta.type"), b'{"meta": {"type": "a"}, "type": "native"}', None, "a"),
        (TypeSource(header="h", field="f"), b'{"f": "of the field"}', {"h": "of the header"}, "of the header"),
    ],
)
def test_the_type_is_read_where_the_settings_say(source: TypeSource, body: bytes, headers: Any, expected: str) -> None:
    assert expected == decode(body, headers=headers, source=source).type


def test_a_place_that_the_settings_name_counts_more_than_the_property() -> None:
    body = b'{"type": "a", "messageType": "b"}'
    assert "b" == decode(body, type="a", source=TypeSource(field="messageType")).type
    assert "a" == decode(body, type="a").type


def test_body_of_exactly_the_limit_is_read() -> None:
    assert decode(b'{"type": "a"}', limit=13).type == "a"


def test_duplicate_fields_and_large_numbers_are_read_and_the_last_one_counts() -> None:
    assert decode(b'{"type": "a", "id": 1, "id": ' + b"9" * 400 + b"}").fields["id"] == int("9" * 400)


def test_message_quotes_80_characters_escaped() -> None:
    message = str(refused(b"\r\n" + b"x" * 1000))
    assert r"'\r\nxxx" in message
    assert message.count("x") == 78


def test_message_points_at_the_bytes_that_are_not_utf8() -> None:
    assert r"\\xe9 au lait" in str(refused(b'{"type": "a", "name": "caf\xe9 au lait"}'))


@given(st.binary(), st.none() | st.text(), st.none() | st.text())
def test_arbitrary_bytes_and_properties_raise_nothing_but_poison(
    body: bytes, type: str | None, encoding: str | None
) -> None:
    try:
        decode(body, type=type, encoding=encoding)
    except PoisonError as error:
        assert len(str(error)) < 1000


@given(st.text().map(lambda text: f'{{"type": {text}}}'.encode(errors="surrogatepass")))
def test_nearly_json_raises_nothing_but_poison(body: bytes) -> None:
    try:
        decode(body)
    except PoisonError as error:
        assert error.reason


@given(st.text(min_size=1), st.dictionaries(st.text(), JSON))
def test_what_is_encoded_is_decoded_the_same(type: str, fields: dict[str, Any]) -> None:
    for taken in ("type", "specversion"):
        fields.pop(taken, None)
    assert Event(type, {"type": type} | fields) == decode(encode(type, fields), limit=10**7)


def test_type_stands_first_in_the_body_and_readable() -> None:
    assert b'{"type":"a","id":17,"price":"1.50"}' == encode("a", {"id": 17, "type": "a", "price": Decimal("1.50")})


@dataclass
class Product:
    price: float


NOT_FINITE: list[Any] = [float("nan"), float("inf"), float("-inf"), Decimal("NaN"), Decimal("-Infinity")]


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: [None, x], lambda x: {"eur": (x,)}, Product, lambda x: {x}])
def test_nan_and_infinity_are_refused_wherever_they_are(value: Any, place: Callable[[Any], Any]) -> None:
    with pytest.raises(PoisonError, match=r"the field 'price' holds -?(nan|inf|NaN|Infinity), which JSON cannot write"):
        encode("a", {"id": None, "price": place(value)})


@pytest.mark.parametrize("value", [b"17", bytearray(b"17"), memoryview(b"17")], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: [None, x], lambda x: {"eur": (x,)}, Product])
def test_bytes_are_refused_wherever_they_are(value: Any, place: Callable[[Any], Any]) -> None:
    with pytest.raises(PoisonError, match=r"^the field 'id' holds bytes, which JSON cannot write: decode them, or"):
        encode("a", {"id": place(value)})


def test_bytes_are_refused_as_names_of_fields_too() -> None:
    with pytest.raises(PoisonError, match=r"^the field 'id' holds bytes"):
        encode("a", {"id": {b"17": 1}})


def test_null_and_the_words_for_no_number_are_written() -> None:
    fields = {"price": None, "text": ["NaN", "Infinity"], "large": Decimal("1e400"), "nested": {"is": "null"}}
    assert {"type": "a"} | fields | {"large": "1E+400"} == decode(encode("a", fields)).fields


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("reason", "type", "fields"),
    [
        ("no-type", "", {}),
        ("type-mismatch", "a", {"type": "b"}),
        ("wrong-type", "a", {"type": 3}),
        ("wrong-type", "a", {"specversion": "1.0"}),
        ("wrong-type", "a", {"x": object()}),
        ("wrong-type", "a", {"x": "\ud800"}),
        ("wrong-type", "a", {"x": 10**5000}),
        ("too-deep", "a", {"x": LOOP}),
    ],
)
def test_unreadable_event_is_not_written(reason: str, type: str, fields: dict[str, Any]) -> None:
    with pytest.raises(PoisonError) as caught:
        encode(type, fields)
    assert reason == caught.value.reason


def test_kinds_are_named_as_json_names_them() -> None:
    values = ["x", True, 1, 1.0, [], {}, None]
    point = "1.0, a number with a decimal point or an exponent"
    expected = ["a string", "true or false", "a number", point, "a list", "an object", "null"]
    assert expected == [kind(value) for value in values]


def test_quoted_cuts_and_escapes() -> None:
    assert "'a\\r\\n'" == quoted("a\r\n")
    assert f"'{'x' * 80}'…" == quoted("x" * 81)


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("example", SCHEMA["examples"])
def test_examples_of_the_schema_are_events(example: dict[str, Any]) -> None:
    Draft202012Validator(SCHEMA).validate(example)
    assert example == decode(json.dumps(example).encode()).fields


SAMPLES: list[Any] = [
    {"type": "a"},
    {"type": "a", "keys": 3},
    {"type": ""},
    {"type": None},
    {"type": 3},
    {"id": 17},
    {},
    [],
    "a",
    None,
    {"type": EVICT},
    {"type": EVICT, "keys": None},
    {"type": EVICT, "keys": "product:1"},
    {"type": EVICT, "keys": []},
    {"type": EVICT, "keys": ["product:1", "product:2"]},
    {"type": EVICT, "keys": ["product:1\r\nflush_all"]},
    {"type": EVICT, "keys": ["product:1\n"]},
    {"type": EVICT, "keys": ["a b"]},
    {"type": EVICT, "keys": ["käse"]},
    {"type": EVICT, "keys": ["\x85"]},
    {"type": EVICT, "keys": [""]},
    {"type": EVICT, "keys": [17]},
    {"type": EVICT, "keys": ["x" * 250]},
    {"type": EVICT, "keys": ["x" * 251]},
    {"type": EVICT, "keys": ["x"] * 10_000},
    {"type": EVICT, "keys": ["x"] * 10_001},
]


def accepted(body: bytes, type: str | None) -> bool:
    try:
        event = decode(body, type=type)
        Rules([]).keys(event)
    except PoisonError:
        return False
    return event.type != TOMBSTONE


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: json.dumps(sample)[:60])
def test_schema_and_decode_agree(sample: Any) -> None:
    body = json.dumps(sample).encode()
    assert Draft202012Validator(SCHEMA).is_valid(sample) == accepted(body, None)
    if not isinstance(sample, dict) or sample.get("type") not in ("a", EVICT):
        untyped = {"$ref": "#/$defs/untyped", "$defs": SCHEMA["$defs"]}
        assert Draft202012Validator(untyped).is_valid(sample) == accepted(body, "a")


@given(JSON)
def test_schema_and_decode_agree_on_any_json(value: Any) -> None:
    assert Draft202012Validator(SCHEMA).is_valid(value) == accepted(json.dumps(value).encode(), None)
