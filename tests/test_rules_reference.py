"""Any template and any event, against a slow reference of how templates are filled in."""

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
from invalidator.events.event import EVICT, Event
from invalidator.events.rules import Rules

ALPHABET = re.compile(rb"[\x21-\x7e\x80-\xff]{1,250}")
KEY = re.compile(r"[^\x00-\x20\x7f-\x9f]+")
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
