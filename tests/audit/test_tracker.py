"""Changed keys over time: due, superseded, lost, stale, repaired; time passes at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from invalidator.audit.budget import Budget
from invalidator.audit.tracker import DELAYS, Tracker
from invalidator.audit.verdict import Reason, Verdict
from tests.audit.world import World
from tests.virtual_time import in_virtual_time

KEY = "product:7"
#: Seconds after which every check of one change has been made.
LATER = 70.0


@asynccontextmanager
async def running(tracker: Tracker) -> AsyncIterator[Tracker]:
    task = asyncio.create_task(tracker.run())
    await asyncio.sleep(0)
    yield tracker
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def all_of(verdict: Verdict) -> list[tuple[float, Verdict]]:
    return [(delay, verdict) for delay in DELAYS]


@in_virtual_time
async def test_a_change_is_checked_at_every_delay() -> None:
    world = World()
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(5)
        world.nodes.store("new")
        await asyncio.sleep(LATER)
        assert (0.1, Verdict.ABSENT) == world.book.counts[0]
        assert [(10.0, Verdict.FRESH), (60.0, Verdict.FRESH)] == world.book.counts[2:]
        assert (0, 3) == (len(tracker), world.source.reads)


@in_virtual_time
async def test_a_value_still_stale_after_the_last_delay_is_permanent_and_removed() -> None:
    world = World("new", "c1", "c2")
    world.nodes.store("old", "c2")
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert [*[(delay, Verdict.LATE) for delay in DELAYS[:-1]], (60.0, Verdict.PERMANENT)] == world.book.counts
    assert [("c2", KEY)] == world.nodes.removed
    (finding,) = world.book.findings
    assert (KEY, "c2", 60.0, Verdict.PERMANENT, Reason.WRITTEN_BACK, True) == finding[1:]


@in_virtual_time
async def test_a_value_whose_eviction_is_under_way_stays_late_and_is_not_removed() -> None:
    world = World()
    world.nodes.store("old")
    world.reason = Reason.PARKED
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert all_of(Verdict.LATE) == world.book.counts
    assert [(Verdict.LATE, Reason.PARKED, False)] == [finding[4:] for finding in world.book.findings]
    assert [] == world.nodes.removed


@in_virtual_time
async def test_a_value_that_was_stale_for_a_while_is_a_finding_too() -> None:
    world = World()
    world.nodes.store("old")
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(3)
        world.nodes.evict()
        await asyncio.sleep(LATER)
    assert [Verdict.LATE, Verdict.LATE, Verdict.ABSENT, Verdict.ABSENT] == [one for _, one in world.book.counts]
    assert [1.0] == [finding.delay for finding in world.book.findings]


@in_virtual_time
async def test_without_repair_nothing_is_removed() -> None:
    world = World()
    world.nodes.store("old")
    async with running(world.tracker(repairs=False)) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert [(Verdict.PERMANENT, False)] == [(one.verdict, one.repaired) for one in world.book.findings]


@in_virtual_time
async def test_the_limit_of_repairs_puts_off_and_leaves_out_none() -> None:
    world = World()
    world.nodes.store("old")
    repairs = Budget(0.1, clock=asyncio.get_running_loop().time)
    async with running(world.tracker(repairs=repairs)) as tracker:
        for number in range(3):
            tracker.changed(f"product:{number}")
        await asyncio.sleep(LATER)
        assert [True] == [finding.repaired for finding in world.book.findings]
        world.nodes.store("old")  # the world has one item for all keys
        await asyncio.sleep(10.0)
        world.nodes.store("old")
        await asyncio.sleep(10.0)
    assert [True, True, True] == [finding.repaired for finding in world.book.findings]


@in_virtual_time
async def test_a_value_that_changes_while_others_are_removed_is_left_alone() -> None:
    world = World()
    world.nodes.store("old")
    repairs = Budget(0.01, clock=asyncio.get_running_loop().time)
    repairs.claim()
    async with running(world.tracker(repairs=repairs)) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
        tracker.changed(KEY)
        await asyncio.sleep(0.2)
    assert ([False], []) == ([finding.repaired for finding in world.book.findings], world.nodes.removed)


@in_virtual_time
async def test_a_change_of_the_key_within_a_second_after_a_stale_value_makes_it_unclear() -> None:
    """Hold the fourth guard: a price went to and fro, the value in between is cached, its event is on its way."""
    world = World()
    world.nodes.store("in between")
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(0.2)
        tracker.changed(KEY)
        world.nodes.evict()
        await asyncio.sleep(LATER)
    assert [(0.1, Verdict.UNCLEAR), *all_of(Verdict.ABSENT)] == world.book.counts
    assert [] == world.book.findings


@in_virtual_time
async def test_a_superseded_change_counts_no_further_and_its_successor_begins_anew() -> None:
    world = World()
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(0.5)
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert [(0.1, Verdict.ABSENT), *all_of(Verdict.ABSENT)] == world.book.counts


@in_virtual_time
async def test_a_key_that_changes_all_the_time_is_begun_once_a_second_and_its_last_change_is_checked() -> None:
    world = World()
    async with running(world.tracker()) as tracker:
        for _ in range(150):
            tracker.changed(KEY)
            await asyncio.sleep(0.02)
        assert world.source.reads <= 4
        world.book.counts.clear()
        await asyncio.sleep(LATER)
    assert all_of(Verdict.ABSENT) == world.book.counts


@in_virtual_time
async def test_a_lost_feed_ends_all_checks_and_what_was_due_counts_as_not_made() -> None:
    world = World()
    world.nodes.store("old")
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(5)
        tracker.lost()
        await asyncio.sleep(LATER)
    assert [Verdict.LATE, Verdict.LATE, Verdict.UNCHECKED, Verdict.UNCHECKED] == [one for _, one in world.book.counts]


@in_virtual_time
async def test_a_feed_that_is_lost_within_a_second_after_a_stale_value_makes_it_unclear() -> None:
    world = World()
    world.nodes.store("old")
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(0.2)
        tracker.lost()
        await asyncio.sleep(LATER)
    assert [Verdict.UNCLEAR, *[Verdict.UNCHECKED] * 3] == [one for _, one in world.book.counts]


@in_virtual_time
async def test_a_change_that_waits_when_the_feed_is_lost_is_not_checked_and_later_ones_are() -> None:
    world = World()
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(0.5)
        tracker.changed(KEY)
        await asyncio.sleep(0)
        tracker.lost()
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert sorted([(0.1, Verdict.ABSENT), *all_of(Verdict.UNCHECKED), *all_of(Verdict.ABSENT)], key=str) == sorted(
        world.book.counts, key=str
    )


@in_virtual_time
async def test_a_source_that_does_not_answer_lowers_the_coverage() -> None:
    world = World()
    world.source.is_down = True
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert all_of(Verdict.UNCHECKED) == world.book.counts


@in_virtual_time
async def test_a_limit_of_reads_begins_only_what_can_be_ended() -> None:
    world = World(reads=0.001)
    world.nodes.store("new")
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        tracker.changed("product:8")
        await asyncio.sleep(LATER)
    assert (4, 4) == tuple(
        sum(verdict is wanted for _, verdict in world.book.counts) for wanted in (Verdict.FRESH, Verdict.UNCHECKED)
    )
    assert world.source.reads == 5


@in_virtual_time
async def test_a_limit_of_commands_lowers_the_coverage() -> None:
    world = World(commands=0.001)
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert (all_of(Verdict.UNCHECKED), 0) == (world.book.counts, world.nodes.asked)


@in_virtual_time
async def test_a_key_that_the_source_does_not_know_is_left_alone() -> None:
    world = World()
    async with running(world.tracker()) as tracker:
        tracker.changed("secret:7")
        await asyncio.sleep(LATER)
    assert ([], 0, 0) == (world.book.counts, world.source.reads, world.nodes.asked)


@in_virtual_time
async def test_a_named_key_that_is_stale_without_an_event_is_found_and_counts_in_no_number() -> None:
    world = World()
    world.reason = Reason.EVENT_MISSING
    async with running(world.tracker()) as tracker:
        await tracker.inspect(KEY)
        assert len(tracker) == 0
        world.nodes.store("old")
        await tracker.inspect(KEY)
        await asyncio.sleep(LATER)
    assert [] == world.book.counts
    assert [(Verdict.PERMANENT, Reason.EVENT_MISSING, True)] == [finding[4:] for finding in world.book.findings]


@in_virtual_time
async def test_a_node_that_is_down_hides_no_stale_value_of_another() -> None:
    world = World("new", "c1", "c2")
    world.nodes.store("old", "c2")
    world.nodes.down = {"c1"}
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert (60.0, Verdict.PERMANENT) == world.book.counts[-1]
    world.nodes.evict()
    async with running(world.tracker()) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert all_of(Verdict.UNCHECKED) == world.book.counts[-4:]


@in_virtual_time
async def test_a_stale_value_counts_only_once_the_log_was_read_up_to_that_moment() -> None:
    world = World()
    world.nodes.store("old")
    async with running(world.tracker(catch_up=never)) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert all_of(Verdict.UNCLEAR) == world.book.counts
    assert ([], []) == (world.book.findings, world.nodes.removed)


@in_virtual_time
async def test_a_change_that_shows_as_the_log_is_read_makes_a_stale_value_unclear() -> None:
    world = World()
    world.nodes.store("old")

    async def late_change() -> bool:
        world.nodes.evict()
        tracker.changed(KEY)
        return True

    async with running(world.tracker(catch_up=late_change)) as tracker:
        tracker.changed(KEY)
        await asyncio.sleep(LATER)
    assert [(0.1, Verdict.UNCLEAR), *all_of(Verdict.ABSENT)] == world.book.counts


async def never() -> bool:
    """Stand for a log that cannot be read up to now."""
    return False
