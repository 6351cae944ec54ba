"""The files in conf/ load, and describe every setting correctly."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from invalidator.events.event import Event
from invalidator.events.rules import Rules
from invalidator.memcached.ring import RINGS
from invalidator.settings import Settings, load
from invalidator.settings.names import hints, refuse_unknown, sections
from invalidator.settings.schema import RingKind

FILE = Path(__file__).parent.parent / "conf" / "invalidator.toml"
TEXT = FILE.read_text()
#: Prose comments start with "# ", commented settings with "#" alone.
COMPLETE = re.sub(r"^#(?=[\[a-z])", "", TEXT, flags=re.MULTILINE)


def leaves(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return full name -> value of a parsed file. Rules count once."""
    found: dict[str, Any] = {}
    known = hints()
    for key, value in table.items():
        name = f"{path}{key}"
        inner = value[0] if name == "rule" else value
        found |= leaves(inner, f"{name}.") if sections(known[name]) else {name: value}
    return found


def default_of(name: str) -> Any:
    value: Any = msgspec.convert({}, Settings)
    for part in name.split("."):
        value = getattr(value, part)
    return value


WRITTEN = leaves(tomllib.loads(TEXT))
SHOWN = leaves(tomllib.loads(COMPLETE))
COMMENTED = sorted(SHOWN.keys() - WRITTEN.keys())


def test_example_loads() -> None:
    settings = load(FILE, {})
    assert settings.cluster == "eu"
    assert list(settings.nodes()) == ["cache1", "cache2", "cache3"]


def test_example_with_everything_uncommented_is_valid() -> None:
    tables = tomllib.loads(COMPLETE)
    refuse_unknown(Settings, tables, "in the example")
    secrets = (
        ("broker", "password"),
        ("management", "password"),
        ("memcached", "password"),
        ("outbox", "url"),
        ("follow", "url"),
        ("debezium", "url"),
    )
    for section, secret in secrets:
        del tables[section][secret]  # only `load` can read it
    assert msgspec.convert(tables, Settings).ring.previous


def test_every_setting_is_in_the_example() -> None:
    assert {name for name, hint in hints().items() if not sections(hint)} == SHOWN.keys()


@pytest.mark.parametrize("name", [name for name in COMMENTED if not name.startswith(("ring.previous.", "rule."))])
def test_commented_setting_shows_its_default(name: str) -> None:
    default = default_of(name)
    if default is None:
        assert SHOWN[name], "a setting without a default shows an example"
    else:
        assert default == SHOWN[name]


def test_every_setting_is_explained() -> None:
    # Explained together with the line before, or with their table.
    exempt = ("#password", "#tls_", "#kind", "#nodes", "on =", "evict =")
    lines = TEXT.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#?[a-z_]+ = ", line) and not line.startswith(exempt):
            assert before.startswith("# "), line


def test_ring_kinds_are_those_that_exist() -> None:
    assert set(RINGS) == set(get_args(RingKind))


@pytest.mark.parametrize(
    ("type", "fields", "expected"),
    [
        (
            "product_updated",
            {"id": 17, "before": {"category_id": 3}, "after": {"category_id": 4}},
            ["product:17", "product:17:reviews", "category:3:listing", "category:4:listing"],
        ),
        ("product_updated", {"id": "abc-123", "price": 109.99}, ["product:abc-123", "product:abc-123:reviews"]),
        (
            "product_deleted",
            {"id": 17, "category_ids": [3, 4]},
            ["product:17", "product:17:reviews", "category:3:listing", "category:4:listing"],
        ),
        ("review_posted", {"product_id": 17}, ["product:17:reviews"]),
    ],
)
def test_rules_of_the_example_evict_what_is_stale(type: str, fields: dict[str, Any], expected: list[str]) -> None:
    rules = Rules([(rule.on, rule.evict) for rule in load(FILE, {}).rule])
    assert expected == [key.decode() for key in rules.keys(Event(type, fields))]
