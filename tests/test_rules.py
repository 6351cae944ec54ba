"""The invariant: for any event, `keys` raises `PoisonError` or returns keys that memcached accepts."""

import hashlib
import itertools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events.event import EVICT, GAP, Event
from invalidator.events.rules import Rules

ALPHABET = re.compile(rb"[\x21-\x7e\x80-\xff]{1,250}")
KEY = re.compile(r"[^\x00-\x20\x7f-\x9f]+")


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


@pytest.mark.parametrize("value", [True, False, 1.5, 1.0, {}, {"a": 1}, [[1]], [True], [1, 2.0], [{}]])
@pytest.mark.parametrize("template", ["{id}", "{id?}", "{id|md5}", "x:{id}:{id}"])
def test_only_strings_and_whole_numbers_become_part_of_a_key(template: str, value: Any) -> None:
    error = poison(template, id=value)
    assert error.reason == "wrong-type"
    assert '"id"' in str(error)


@pytest.mark.parametrize("value", [3, "x", [], [{"id": 1}], True])
def test_only_an_object_has_fields(value: Any) -> None:
    error = poison("{after.id?}", after=value)
    assert error.reason == "wrong-type"
    assert '"after"' in str(error)


@pytest.mark.parametrize(
    "value",
    [
        "1\r\nflush_all",
        "a b",
        "a\n",
        "\n",
        "\x7f",
        "\x00",
        "\x85",
        "x" * 249,
        "ä" * 125,
        "\ud800",
        10**249,
        pytest.param(10**5000, id="huge"),
    ],
)
def test_impossible_key_is_poison_and_never_cleaned_up(value: Any) -> None:
    assert poison("k:{id}", id=value).reason == "bad-key"
    assert poison("k:{id}", id=["fine", value]).reason == "bad-key"


@pytest.mark.parametrize("template", ["{id}", "product:{id}", "{id?}:x", "{id|md5}", "{a.id}", "{id}:{id}"])
@pytest.mark.parametrize("value", ["", ["x", ""]])
def test_an_empty_field_is_refused_by_every_template_that_has_it(template: str, value: Any) -> None:
    assert poison(template, id=value, a={"id": value}).reason == "bad-key"
    assert ["fine"] == keys("fine", id=value)


def test_a_key_of_the_built_in_event_is_not_empty() -> None:
    with pytest.raises(PoisonError, match="0 bytes, 1 to 250 are allowed"):
        Rules([]).keys(Event(EVICT, {"keys": [""]}))


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


def test_a_field_with_half_a_surrogate_pair_is_refused_where_a_rule_needs_it() -> None:
    assert "half of a surrogate pair" in str(poison("k:{id}", id="\ud83d"))
    assert ["k:1"] == keys("k:{id}", id=1, name="\ud83d")


@pytest.mark.parametrize(("value", "shown"), [(4.0, "4.0"), (1e21, "1e+21"), (1.5, "1.5")])
def test_a_number_with_a_point_or_an_exponent_is_refused_as_what_it_is(value: float, shown: str) -> None:
    assert f'"id" is or holds {shown}, a number with a decimal point or an exponent' in str(poison("{id}", id=value))


def test_value_that_a_filter_cannot_read_is_poison() -> None:
    assert poison("k:{id|md5}", id="\ud800").reason == "bad-key"


def test_prefix_counts_towards_the_length_and_is_not_added() -> None:
    assert ["x" * 245] == keys("{id}", prefix="shop:", id="x" * 245)
    assert poison("{id}", prefix="shop:", id="x" * 246).reason == "bad-key"


def test_message_quotes_the_start_of_the_key_escaped() -> None:
    message = str(poison("product:{id}", id="1\r\nflush_all" + "x" * 1000))
    assert r"'product:1\r\nflush_all" in message
    assert message.count("x") < 80


def test_no_event_evicts_more_keys_than_allowed() -> None:
    assert 10 == len(keys("{x}", event_keys=10, x=list(range(10))))
    assert poison("{x}", event_keys=10, x=list(range(11))).reason == "too-many-keys"
    assert poison("{x?}", event_keys=10, x=[None] * 11).reason == "too-many-keys"
    two = Rules([("t", ["a:{x}", "b:{x}"])], event_keys=10)
    assert 10 == len(two.keys(Event("t", {"x": [1, 2, 3, 4, 5]})))
    with pytest.raises(PoisonError, match="12 keys, 10 are allowed"):
        two.keys(Event("t", {"x": [1, 2, 3, 4, 5, 6]}))


def test_product_of_lists_is_refused_before_it_is_built() -> None:
    items = list(range(10_000))
    assert poison("{a}{b}{c}{d}", a=items, b=items, c=items, d=items).reason == "too-many-keys"


def test_cache_evict_lists_its_keys_itself() -> None:
    event = Event(EVICT, {"keys": ["product:1", "product:2", "product:1"]})
    assert [b"product:1", b"product:2"] == Rules([]).keys(event)


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        ("missing-field", None),
        ("wrong-type", "product:1"),
        ("wrong-type", {"a": 1}),
        ("wrong-type", ["a", 1]),
        ("wrong-type", ["a", None]),
        ("bad-key", ["a", "b c"]),
        ("bad-key", [""]),
        ("bad-key", ["shop:" + "x" * 241]),
        ("too-many-keys", ["a"] * 10_001),
    ],
)
def test_cache_evict_has_the_limits_of_every_event(reason: str, value: Any) -> None:
    with pytest.raises(PoisonError) as caught:
        Rules([], prefix="shop:").keys(Event(EVICT, {"keys": value}))
    assert reason == caught.value.reason


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


@pytest.mark.parametrize(
    ("template", "column", "fix"),
    [
        ("product:{id", 9, '"{{"'),
        ("product:id}", 11, '"}}"'),
        ("product:{{id}", 13, '"}}"'),
        ("product:{id:03d}", 9, "{field}"),
        ("product:{id!r}", 9, "{field}"),
        ("product:{}", 9, "{field}"),
        ("{items[0]}", 1, "{field}"),
        ("{items.0}", 1, "{field}"),
        ("{0}", 1, "{field}"),
        ("{ id }", 1, "{field}"),
        ("{a..b}", 1, "{field}"),
        ("{id|md5?}", 1, "{field?}"),
        ("k:{id|md4}", 3, "quote, lower, md5, sha256"),
        ("k:{id|}", 3, "quote, lower, md5, sha256"),
        ("a key", 2, "no spaces"),
        ("{id}k\x85", 6, "no spaces or control characters"),
        ("key\n", 4, "no spaces or control characters"),
        ("", 1, "1 to 245 bytes"),
        ("x" * 246, 1, "1 to 245 bytes"),
        ("é" * 123, 1, "1 to 245 bytes"),
    ],
)
def test_wrong_template_is_refused_at_start_with_rule_column_and_fix(template: str, column: int, fix: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Rules([("a", ["fine"]), ("b", ["fine", template])], prefix="shop:")
    message = str(caught.value)
    assert message.startswith('rule 2 (on "b"), template ')
    assert f"column {column}: " in message
    assert fix in message


def test_built_in_event_cannot_be_redefined() -> None:
    for type in (EVICT, GAP):
        with pytest.raises(ConfigurationError, match=rf'rule 1 \(on "{type}"\): this event is built in'):
            Rules([(type, ["product:{id}"])])


@pytest.mark.parametrize("prefix", ["a b", "\x85", "x" * 250, "é" * 125, "a\n"])
def test_prefix_that_leaves_no_key_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        Rules([], prefix=prefix)


# --- properties

TEXT = st.text(st.characters(exclude_categories=[]), max_size=300)
SHORT = st.text("aB1:%{}\r\n ä/", max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(10**260), 10**260) | st.floats() | TEXT | SHORT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
EVENTS = st.dictionaries(st.sampled_from(["a", "b", "c", "keys"]), VALUES)
NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=2).map(".".join)
FILTERS: dict[str, Callable[[str], str]] = {
    "quote": lambda text: quote(text, safe=""),
    "lower": lambda text: text.lower(),
    "md5": lambda text: hashlib.md5(text.encode()).hexdigest(),
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}
#: A literal, or a placeholder: path, optional, filters.
PARTS = st.lists(
    st.text("x:%{}s", min_size=1, max_size=3)
    | st.tuples(NAMES, st.booleans(), st.lists(st.sampled_from(sorted(FILTERS)), max_size=2)),
    min_size=1,
    max_size=4,
)


def written(parts: list[Any]) -> str:
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part.replace("{", "{{").replace("}", "}}")
        else:
            path, optional, filters = part
            text += "{" + path + "?" * optional + "".join(f"|{name}" for name in filters) + "}"
    return text


class RefusedError(Exception):
    """Raised by the reference where `Rules` raises PoisonError."""


def looked_up(path: str, event: Any) -> Any:
    for name in path.split("."):
        if event is None:
            return None
        if type(event) is not dict:
            raise RefusedError
        event = event.get(name)
    return event


def filled(parts: list[Any], chosen: dict[str, Any]) -> str:
    key = ""
    for part in parts:
        path, _, filters = (None, False, []) if isinstance(part, str) else part
        text = str(chosen[path]) if path else part
        for name in filters:
            text = FILTERS[name](text)
        key += text
    if not KEY.fullmatch(key) or len(key.encode()) > 250:
        raise RefusedError
    return key


def reference(parts: list[Any], event: dict[str, Any]) -> set[str]:
    """Return the keys of a template, computed as plainly as possible."""
    placeholders = [part for part in parts if not isinstance(part, str)]
    values = {path: looked_up(path, event) for path, _, _ in placeholders}
    optional = {path for path, may_miss, _ in placeholders if may_miss}
    if any(values[path] is None for path in optional):
        return set()
    for path, value in values.items():
        items = value if type(value) is list else [value]
        values[path] = [item for item in items if item is not None or path not in optional]
        if any(type(item) not in (str, int) or item == "" for item in values[path]):
            raise RefusedError
    return {filled(parts, dict(zip(values, row, strict=True))) for row in itertools.product(*values.values())}


@given(PARTS, EVENTS)
def test_templates_agree_with_the_reference(parts: list[Any], event: dict[str, Any]) -> None:
    rules = Rules([("t", [written(parts)])])
    try:
        expected = reference(parts, event)
    except (RefusedError, UnicodeEncodeError):
        with pytest.raises(PoisonError):
            rules.keys(Event("t", event))
    else:
        assert expected == {key.decode() for key in rules.keys(Event("t", event))}


@given(EVENTS)
def test_several_templates_of_one_field_give_what_each_of_them_gives(event: dict[str, Any]) -> None:
    templates = ["product:{a}", "{a?}:reviews", "product:{a}:listing"]
    try:
        expected = [key for one in templates for key in Rules([("t", [one])]).keys(Event("t", event))]
    except PoisonError as error:
        with pytest.raises(PoisonError) as raised:
            Rules([("t", templates)]).keys(Event("t", event))
        assert raised.value.reason == error.reason
    else:
        assert list(dict.fromkeys(expected)) == Rules([("t", templates)]).keys(Event("t", event))


@given(EVENTS, st.sampled_from(["t", EVICT]), st.sampled_from(["", "shop:", "x" * 200]))
def test_keys_always_match_the_alphabet(event: dict[str, Any], type: str, prefix: str) -> None:
    rules = Rules([("t", ["{a}", "k:{b?}", "k:{c|lower}:{a.b?}", "{keys?}"])], prefix=prefix)
    try:
        found = rules.keys(Event(type, event))
    except PoisonError as error:
        assert len(str(error)) < 1000
    else:
        assert all(ALPHABET.fullmatch(prefix.encode() + key) for key in found)
        assert len(found) == len(set(found))


@given(st.text("ab{}|?.:%! \n", max_size=20))
def test_any_text_is_a_template_or_refused_by_name(template: str) -> None:
    try:
        Rules([("t", [template])])
    except ConfigurationError as error:
        assert "rule 1" in str(error)
