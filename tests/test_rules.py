"""Templates of keys: how events fill them in, and which keys come of it."""

import hashlib
from typing import Any

import pytest

from invalidator.errors import PoisonError
from invalidator.events.event import EVICT, Event
from invalidator.events.rules import Rules


def keys(template: str, /, event_keys: int = 10_000, prefix: str = "", **fields: Any) -> list[str]:
    rules = Rules([("t", [template])], prefix=prefix, event_keys=event_keys)
    return [key.decode() for key in rules.keys(Event("t", fields))]


def poison(template: str, /, **fields: Any) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        keys(template, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("template", "fields", "expected"),
    [
        ("all-products", {}, ["all-products"]),
        ("product:{id}", {"id": "abc-123"}, ["product:abc-123"]),
        ("product:{id}:reviews", {"id": 17}, ["product:17:reviews"]),
        ("product:{id}", {"id": -1}, ["product:-1"]),
        ("{shop}:{id}", {"id": 1, "shop": "de"}, ["de:1"]),
        ("100%:{id}%s", {"id": "%d"}, ["100%:%d%s"]),
        ("{{{id}}}", {"id": 1}, ["{1}"]),
        ("{{id}}", {"id": 1}, ["{id}"]),
        ("{größe|quote}", {"größe": "ä"}, ["%C3%A4"]),
        ("käse:{größe}", {"größe": "é"}, ["käse:é"]),
        ("{__class__}", {"__class__": "field"}, ["field"]),
    ],
)
def test_template_is_filled_in(template: str, fields: dict[str, Any], expected: list[str]) -> None:
    assert expected == keys(template, **fields)


def test_product_that_moved_evicts_both_category_listings() -> None:
    rules = Rules(
        [("product_updated", ["category:{before.category_id?}:listing", "category:{after.category_id?}:listing"])]
    )
    moved = Event("product_updated", {"before": {"category_id": 3}, "after": {"category_id": 4}})
    created = Event("product_updated", {"before": None, "after": {"category_id": 4}})
    assert [b"category:3:listing", b"category:4:listing"] == rules.keys(moved)
    assert [b"category:4:listing"] == rules.keys(created)


@pytest.mark.parametrize("fields", [{}, {"id": None}])
def test_missing_field_is_poison_unless_optional(fields: dict[str, Any]) -> None:
    error = poison("product:{id}", **fields)
    assert error.reason == "missing-field"
    assert "{id?}" in str(error)
    assert [] == keys("product:{id?}", **fields)


def test_optional_field_that_is_missing_excuses_its_whole_template() -> None:
    assert [] == keys("{a}:{b?}", c=1)
    assert poison("{a}:{b?}", b=1).reason == "missing-field"


def test_list_fans_out_to_one_key_an_item() -> None:
    assert ["category:x:listing", "category:3:listing"] == keys("category:{ids}:listing", ids=["x", 3])
    assert [] == keys("category:{ids}:listing", ids=[])


def test_several_lists_are_combined_each_with_each() -> None:
    assert ["a:1", "a:2", "b:1", "b:2"] == keys("{x}:{y.z}", x=["a", "b"], y={"z": [1, 2]})


def test_field_that_appears_twice_is_paired_with_itself() -> None:
    assert ["A:a", "B:b"] == keys("{ids}:{ids|lower}", ids=["A", "B"])


def test_null_in_a_list_is_poison_or_skipped() -> None:
    assert poison("{ids}", ids=[1, None]).reason == "missing-field"
    assert ["1"] == keys("{ids?}", ids=[1, None])


def test_keys_are_distinct_and_in_the_order_of_the_rules() -> None:
    rules = Rules([("t", ["b:{x}", "a:{x}"]), ("other", ["z"]), ("t", ["c", "b:{y}", "c"])])
    assert [b"b:1", b"a:1", b"c", b"b:2"] == rules.keys(Event("t", {"x": [1, 1], "y": [1, 2]}))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("quote", "%C3%84%20%2F%25"),
        ("md5", hashlib.md5("Ä /%".encode()).hexdigest()),
        ("sha256", hashlib.sha256("Ä /%".encode()).hexdigest()),
        ("lower|quote", "%C3%A4%20%2F%25"),
        ("quote|lower", "%c3%84%20%2f%25"),
        ("lower|md5", hashlib.md5("ä /%".encode()).hexdigest()),
    ],
)
def test_filters_apply_from_left_to_right(filters: str, expected: str) -> None:
    assert [f"k:{expected}"] == keys(f"k:{{name|{filters}}}", name="Ä /%")


@pytest.mark.parametrize("key", ["product:é0", "商品:17", "product:\xa017", "🧀" * 62])
def test_a_key_that_clients_store_as_utf8_is_evicted(key: str) -> None:
    assert [key.encode()] == Rules([("t", ["{key}"])]).keys(Event("t", {"key": key}))
    assert [key.encode()] == Rules([]).keys(Event(EVICT, {"keys": [key]}))


def test_keys_are_counted_in_bytes() -> None:
    message = str(poison("{id}", id="é" * 126))
    assert "has 252 bytes, 1 to 250 are allowed" in message
    assert 125 == len(keys("{id}", id="é" * 125)[0])
    with pytest.raises(PoisonError, match="has 248 bytes, 1 to 247 are allowed"):
        keys("{id}", prefix="é:", id="x" * 248)


def test_cache_evict_lists_its_keys_itself() -> None:
    event = Event(EVICT, {"keys": ["product:1", "product:2", "product:1"]})
    assert [b"product:1", b"product:2"] == Rules([]).keys(event)


def test_rules_know_their_types_and_the_built_in_one() -> None:
    rules = Rules([("product_updated", ["product:{id}"])])
    assert "product_updated" in rules.known
    assert EVICT in rules.known
    assert "product_deleted" not in rules.known
    assert [] == rules.keys(Event("product_deleted", {}))


def test_explain_gives_each_template_with_its_keys() -> None:
    rules = Rules([("t", ["product:{id}", "tag:{tags?}"])])
    assert [("product:{id}", [b"product:1"]), ("tag:{tags?}", [])] == rules.explain(Event("t", {"id": 1}))
    assert [("cache_evict (built in)", [b"a"])] == rules.explain(Event(EVICT, {"keys": ["a"]}))
    assert [] == rules.explain(Event("other", {}))
    with pytest.raises(PoisonError):
        rules.explain(Event("t", {}))
