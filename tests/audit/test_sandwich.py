"""The verdict on one node, and each guard that keeps it from a false alarm."""

import pytest

from invalidator.app.cache.items import NOTHING, Item, placeholder
from invalidator.audit.sandwich import Judged, Sighting, sandwich
from invalidator.audit.truth import Truth
from invalidator.audit.verdict import Verdict, gravest
from tests.audit.world import Nodes, Source, value

NEW, OLD = Truth.of("new"), Truth.of("old")


async def judged(nodes: Nodes, source: Source, first: Truth = NEW) -> list[Verdict]:
    found = await sandwich(nodes, "product:7", source.read, first)
    return [found[label].verdict for label in nodes.labels]


async def test_an_old_value_that_stood_there_while_the_source_was_read_is_stale() -> None:
    nodes = Nodes("c1", "c2")
    nodes.store("old", "c2")
    found = await sandwich(nodes, "product:7", Source("new").read, NEW)
    assert found == {"c1": Judged(Verdict.ABSENT), "c2": Judged(Verdict.LATE, Sighting(value("old"), b"1", 1))}


async def test_a_value_that_equals_the_source_is_fresh_and_one_read_serves_every_node() -> None:
    nodes, source = Nodes("c1", "c2"), Source("new")
    nodes.store("new")
    assert [Verdict.FRESH, Verdict.FRESH] == await judged(nodes, source)
    assert source.reads == 1


async def test_a_key_that_is_nowhere_costs_no_read_of_the_source() -> None:
    nodes, source = Nodes("c1", "c2"), Source("new")
    assert [Verdict.ABSENT, Verdict.ABSENT] == await judged(nodes, source)
    assert (1, 0) == (nodes.asked, source.reads)


async def test_a_placeholder_is_being_filled_and_costs_no_read() -> None:
    nodes, source = Nodes(), Source("new")
    nodes.put(placeholder())
    assert [Verdict.FILLING] == await judged(nodes, source)
    assert source.reads == 0


async def test_a_deleted_row_whose_value_is_still_there_is_stale_and_a_negative_entry_is_not() -> None:
    nodes, source = Nodes("c1", "c2"), Source(None)
    nodes.store("old", "c1")
    nodes.put(Item(b"", NOTHING), "c2")
    assert [Verdict.LATE, Verdict.FRESH] == await judged(nodes, source, Truth.of(None))


# The guards


async def test_an_item_replaced_during_the_read_is_unclear() -> None:
    nodes, source = Nodes(), Source("new")
    nodes.store("old")
    source.on_read = lambda: nodes.store("old")
    assert [Verdict.UNCLEAR] == await judged(nodes, source)


async def test_an_item_evicted_during_the_read_is_unclear() -> None:
    nodes, source = Nodes(), Source("new")
    nodes.store("old")
    source.on_read = nodes.evict
    assert [Verdict.UNCLEAR] == await judged(nodes, source)


async def test_the_same_number_on_another_connection_is_unclear_for_numbers_begin_again_with_a_restart() -> None:
    nodes, source = Nodes(), Source("new")
    nodes.store("old")

    def restart() -> None:
        nodes.restart("c1")
        nodes.store("old")

    source.on_read = restart
    assert [Verdict.UNCLEAR] == await judged(nodes, source)


async def test_a_node_without_cas_numbers_proves_nothing_stale() -> None:
    seen = Sighting(value("old"), b"0", 1)
    assert not seen.is_same_as(seen)


async def test_a_source_that_changed_since_the_first_read_makes_it_unclear() -> None:
    nodes = Nodes()
    nodes.store("old")
    assert [Verdict.UNCLEAR] == await judged(nodes, Source("new"), first=OLD)


@pytest.mark.parametrize("item", [Item(b"not JSON"), Item(b'"old"', flags=1)], ids=["other format", "other client"])
async def test_an_item_that_cannot_be_read_is_unclear(item: Item) -> None:
    nodes = Nodes()
    nodes.put(item)
    assert [Verdict.UNCLEAR] == await judged(nodes, Source("new"))


async def test_nothing_is_checked_where_the_node_or_the_source_does_not_answer() -> None:
    nodes, source = Nodes("c1", "c2"), Source("new")
    nodes.store("old")
    nodes.down = {"c1"}
    assert [Verdict.UNCHECKED, Verdict.LATE] == await judged(nodes, source)
    source.is_down = True
    assert [Verdict.UNCHECKED, Verdict.UNCHECKED] == await judged(nodes, source)


async def test_a_node_that_is_lost_during_the_read_was_not_checked() -> None:
    nodes, source = Nodes(), Source("new")
    nodes.store("old")
    source.on_read = lambda: nodes.down.add("c1")
    assert [Verdict.UNCHECKED] == await judged(nodes, source)


# Several nodes


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([Verdict.ABSENT, Verdict.FRESH], Verdict.FRESH),
        ([Verdict.FRESH, Verdict.UNCHECKED], Verdict.UNCHECKED),
        ([Verdict.FRESH, Verdict.LATE, Verdict.UNCHECKED], Verdict.LATE),
        ([Verdict.LATE, Verdict.PERMANENT, Verdict.ABSENT], Verdict.PERMANENT),
        ([], Verdict.UNCHECKED),
    ],
)
def test_of_several_nodes_the_gravest_verdict_counts(verdicts: list[Verdict], expected: Verdict) -> None:
    assert expected == gravest(verdicts)
