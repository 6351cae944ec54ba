"""The sieve: an event that evicts the key always passes, and most others do not."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import PoisonError
from invalidator.events.event import decode
from invalidator.events.rules import Rules
from invalidator.events.sieve import Sieve

TEMPLATES = [
    "product:{id}",
    "{shop}:{id?}",
    "{shop}-{id}",
    "{id}{shop}",
    "tag:{tags}",
    "name:{name|lower}",
    "hash:{name|md5}:{id}",
    "{a.b}:{a.b}",
    "home",
    "op:{op}",
    "ce:{ce.subject}",
    "data:{data}",
]
RULES = [("changed", TEMPLATES[:6]), ("moved", TEMPLATES[4:]), ("debezium:public.t", TEMPLATES)]
SMALL = st.one_of(st.integers(-20, 20), st.sampled_from(["1", "a", "é", "a-b", "1-1", '"', "K", "A", "\\", "0", "d"]))
FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["changed", "moved", "cache_evict"]),
        "id": SMALL,
        "shop": SMALL,
        "name": SMALL,
        "tags": st.lists(SMALL, max_size=3),
        "keys": st.lists(st.sampled_from(["product:1", "home", "op:d"]), max_size=2),
        "a": st.fixed_dictionaries({"b": SMALL}),
        "data": SMALL,
        "op": st.sampled_from(["c", "d"]),
        "specversion": st.just("1.0"),
        "subject": SMALL,
        "__table": st.just("t"),
        "__schema": st.just("public"),
        "__op": st.sampled_from(["u", "d"]),
        "__deleted": st.sampled_from(["true", "false"]),
    },
)


@given(FIELDS, st.sampled_from([None, "changed", "moved"]), st.booleans(), st.booleans())
def test_an_event_that_evicts_a_key_passes_its_sieve(
    fields: dict[str, Any], type: str | None, escaped: bool, spaced: bool
) -> None:
    body = msgspec.json.encode(fields)
    if spaced:
        body = msgspec.json.format(body, indent=1)
    if escaped:
        body = body.replace(b'"1"', b'"\\u0031"').replace(b":0", b":-0")
    try:
        event = decode(body, type)
        keys = Rules(RULES).keys(event)
    except PoisonError:
        return
    for key in keys:
        assert Sieve(RULES, key.decode()).passes(body, b"", type), key


def passes(body: bytes, key: str = "product:17", template: str = "product:{id}", *, header: bytes = b"") -> bool:
    return Sieve([("product_updated", [template])], key).passes(body, header, None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": 17}',
        b'{"id":"17"}',
        b'{"ids":[3,17]}',
        b'{"id": "\\u0031\\u0037"}',
        b'{"keys": ["product:17"]}',
        b'{"specversion": "1.0", "data_base64": "eyJpZCI6IDE3fQ=="}',
        b'{"schema": {}, "payload": {"id": "EQ=="}}',
    ],
)
def test_what_may_hold_the_value_passes(body: bytes) -> None:
    assert passes(body)


@pytest.mark.parametrize("body", [b'{"id": 18}', b'{"id": "a17"}', b'{"id": 170}', b'{"price": 1.17}', b'{"id": 17.5}'])
def test_what_cannot_hold_the_value_is_left_out(body: bytes) -> None:
    assert not passes(body)


def test_minus_zero_is_zero() -> None:
    assert passes(b'{"id": -0}', "product:0")


def test_a_cloud_event_in_headers_passes() -> None:
    assert passes(b"{}", header=b"\x17cloudEvents:specversion")


@pytest.mark.parametrize(
    ("template", "key"), [("home", "home"), ("p:{name|lower}", "p:a"), ("{x}-{y}", "a-b-c"), ("op:{op}", "op:d")]
)
def test_a_key_that_other_values_make_too_lets_every_event_of_its_type_pass(template: str, key: str) -> None:
    sieve = Sieve([("product_updated", [template]), ("other", ["other:{id}"])], key)
    assert (True, True, False) == tuple(sieve.passes(b"{}", b"", type) for type in ("product_updated", None, "other"))


def test_fields_whose_values_are_certain_are_looked_for_although_others_are_filtered() -> None:
    assert passes(b'{"shop": "eu"}', "eu:17:0", "{shop}:17:{name|lower}")
    assert not passes(b'{"shop": "us"}', "eu:17:0", "{shop}:17:{name|lower}")
