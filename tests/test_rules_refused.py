"""Rules and events that are refused: impossible keys, limits, wrong templates."""

from typing import Any

import pytest

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events.event import EVICT, GAP, Event
from invalidator.events.rules import Rules
from tests.test_rules import keys, poison


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
