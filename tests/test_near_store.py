"""The copies of a near cache, with a clock of the test's own and announcements that get lost."""

from dataclasses import dataclass

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from invalidator.app.near.sequence import SILENCE_SECONDS
from invalidator.app.near.store import Copies, PendingRead
from invalidator.broker.messages import Announcement

MAX_AGE = 10.0
KEYS = ["product:1", "product:2"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def announcement(number: int, *keys: str, worker: str = "w1", everything: bool = False) -> Announcement:
    return Announcement("eu", worker, number, list(keys), everything=everything)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def copies(clock: Clock) -> Copies:
    """Return linked copies with one announcing worker."""
    copies = Copies(size=100, clock=clock)
    copies.linked()
    copies.received(announcement(0))
    return copies


def read(copies: Copies, key: str = "product:1") -> None:
    reading = begin(copies, key)
    copies.keep(reading, "value", max_age=MAX_AGE)


def begin(copies: Copies, key: str = "product:1") -> PendingRead:
    assert copies.find(key) is None
    return copies.begin(key)


def held(copies: Copies, *keys: str) -> list[bool]:
    return [copies.find(key) is not None for key in keys or ("product:1",)]


def test_what_was_read_is_served_until_its_key_is_announced(copies: Copies) -> None:
    read(copies, "product:1")
    read(copies, "product:2")
    copies.received(announcement(1, "product:1"))
    assert held(copies, "product:1", "product:2") == [False, True]


def test_a_copy_is_as_old_as_the_beginning_of_its_read(copies: Copies, clock: Clock) -> None:
    reading = begin(copies)
    for second in range(1, 10):
        clock.now += 1.0
        copies.received(announcement(0))
        if second == 6:
            copies.keep(reading, "value", max_age=MAX_AGE)
    assert held(copies) == [True]
    clock.now += 1.0
    assert held(copies) == [False]


@pytest.mark.parametrize(
    "missed",
    [
        announcement(2, "other"),
        announcement(1),
        announcement(3),
        announcement(5, worker="w2"),
        announcement(1, worker="w2"),
        announcement(2, "other", worker="w2"),
    ],
)
def test_a_skipped_number_or_an_unknown_worker_with_a_past_forgets_everything(
    copies: Copies, missed: Announcement
) -> None:
    read(copies)
    copies.received(missed)
    assert held(copies) == [False]


@pytest.mark.parametrize(
    "new",
    [announcement(0, worker="w2"), announcement(1, "other", worker="w2"), announcement(1, "other"), announcement(0)],
)
def test_the_next_number_or_a_worker_that_has_only_begun_forgets_nothing_else(
    copies: Copies, new: Announcement
) -> None:
    read(copies)
    copies.received(new)
    assert held(copies) == [True]


def test_an_announcement_behind_its_successor_forgets_its_keys_and_is_no_new_gap(copies: Copies) -> None:
    copies.received(announcement(2, "product:2"))
    read(copies, "product:1")
    read(copies, "product:3")
    copies.received(announcement(1, "product:1"))
    assert held(copies, "product:1", "product:3") == [False, True]
    copies.received(announcement(3, "product:2"))
    assert held(copies, "product:3") == [True]


def test_a_node_that_was_emptied_forgets_everything(copies: Copies) -> None:
    read(copies)
    copies.received(announcement(1, everything=True))
    assert held(copies) == [False]


def test_a_silent_worker_forgets_everything_though_another_announces(copies: Copies, clock: Clock) -> None:
    copies.received(announcement(0, worker="w2"))
    read(copies)
    clock.now += SILENCE_SECONDS - 0.1
    copies.received(announcement(0, worker="w2"))
    assert held(copies) == [True]
    clock.now += 0.1
    assert held(copies) == [False]
    read(copies)
    assert held(copies) == [True], "the other worker is announcing"


def test_an_announcement_that_waited_in_this_process_counts_from_when_it_is_received(
    copies: Copies, clock: Clock
) -> None:
    """The stated bound: 2 s after the eviction, and the time for which this process was too busy to receive."""
    waited = 1.5
    read(copies)
    clock.now += 0.1  # product:1 is evicted now, and its announcement is lost
    clock.now += waited
    copies.received(announcement(0))  # sent before the eviction
    clock.now += SILENCE_SECONDS - 0.1
    assert held(copies) == [True]
    clock.now += 0.1
    assert held(copies) == [False]


def test_without_an_announcing_worker_nothing_is_kept(clock: Clock) -> None:
    copies = Copies(size=100, clock=clock)
    read(copies)
    assert held(copies) == [False]
    copies.linked()
    read(copies)
    assert held(copies) == [False]
    copies.received(announcement(7))
    read(copies)
    assert held(copies) == [True]
    clock.now += SILENCE_SECONDS
    read(copies)
    assert held(copies) == [False]


def test_a_lost_link_forgets_everything_and_all_workers(copies: Copies) -> None:
    read(copies)
    copies.lost()
    assert held(copies) == [False]
    copies.linked()
    read(copies)
    assert held(copies) == [False]


@pytest.mark.parametrize("key_or_gap", [announcement(1, "product:1"), announcement(9)])
def test_a_read_under_way_when_its_key_is_announced_or_all_is_forgotten_is_not_kept(
    copies: Copies, key_or_gap: Announcement
) -> None:
    reading = begin(copies)
    copies.received(key_or_gap)
    copies.keep(reading, "value", max_age=MAX_AGE)
    assert held(copies) == [False]


def test_a_read_that_began_before_the_link_is_not_kept(clock: Clock) -> None:
    copies = Copies(size=100, clock=clock)
    reading = begin(copies)
    copies.linked()
    copies.received(announcement(0))
    copies.keep(reading, "value", max_age=MAX_AGE)
    assert held(copies) == [False]


def test_of_two_reads_of_one_key_the_one_that_began_last_is_kept(copies: Copies) -> None:
    first = begin(copies)
    copies.received(announcement(1, "product:1"))
    second = begin(copies)
    copies.keep(first, "old", max_age=MAX_AGE)
    copies.leave(first)
    copies.keep(second, "new", max_age=MAX_AGE)
    found = copies.find("product:1")
    assert found and found.value == "new"


def test_there_are_never_more_copies_than_the_size_and_those_that_are_served_stay(copies: Copies) -> None:
    for number in range(300):
        read(copies, f"product:{number}")
        assert held(copies, "product:0") == [True]
    assert len(copies) == 100
    assert held(copies, "product:1", "product:299") == [False, True]


def test_copies_that_were_all_served_make_room_too(copies: Copies) -> None:
    keys = [f"product:{number}" for number in range(200)]
    for key in keys:
        read(copies, key)
        assert held(copies, key) == [True]
    assert len(copies) == 100


def test_a_copy_is_replaced_by_a_later_read_of_its_key(copies: Copies) -> None:
    for value in ("first", "second"):
        copies.keep(copies.begin("product:1"), value, max_age=MAX_AGE)
    found = copies.find("product:1")
    assert found and found.value == "second"
    assert len(copies) == 1


def test_a_copy_that_is_replaced_pushes_no_other_out(clock: Clock) -> None:
    copies = Copies(size=2, clock=clock)
    copies.linked()
    copies.received(announcement(0))
    for key in ("other", "key", "key"):
        copies.keep(copies.begin(key), "value", max_age=MAX_AGE)
    assert [True, True] == held(copies, "other", "key")


@dataclass(eq=False)
class Worker:
    name: str
    said: int = 0
    #: The arrival of its last announcement since the link was made.
    announced: float | None = None


@dataclass
class Read:
    reading: PendingRead
    version: int


class NearCacheModel(RuleBasedStateMachine):
    """Workers, losses, reads and evictions in any order. A value is the version of its key when it was read.

    Whatever is lost, no value older than `max_age` is served. An eviction by a worker that had announced within its
    silence takes effect `SILENCE_SECONDS` later, even if its announcement was lost.
    """

    reads = Bundle("reads")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.copies = Copies(size=3, clock=self.clock)
        self.linked = False
        self.versions = dict.fromkeys(KEYS, 0)
        #: (key, version) -> the time from which no near cache may serve it.
        self.too_old_at: dict[tuple[str, int], float] = {}
        self.workers: list[Worker] = []

    @initialize()
    def start(self) -> None:
        self.link()
        self.worker_appears(arrives=True)

    @rule(arrives=strategies.booleans())
    def worker_appears(self, arrives: bool) -> None:
        worker = Worker(f"w{len(self.workers)}")
        self.workers.append(worker)
        self._say(worker, announcement(0, worker=worker.name), arrives)

    @rule(data=strategies.data(), key=strategies.sampled_from(KEYS), arrives=strategies.booleans())
    def evict(self, data: strategies.DataObject, key: str, arrives: bool) -> None:
        worker = data.draw(strategies.sampled_from(self.workers))
        now, evicted = self.clock.now, (key, self.versions[key])
        if self.linked and arrives:
            self.too_old_at[evicted] = now
        elif self._is_announcing(worker):
            self.too_old_at[evicted] = now + SILENCE_SECONDS
        self.versions[key] += 1
        worker.said += 1
        self._say(worker, announcement(worker.said, key, worker=worker.name), arrives)

    @rule(seconds=strategies.sampled_from([0.1, 0.9, 1.0, 1.9, 4.0, 9.0]), data=strategies.data())
    def time_passes(self, seconds: float, data: strategies.DataObject) -> None:
        """Let time pass while some workers announce all the time and the others never."""
        announcing = data.draw(strategies.sets(strategies.sampled_from(self.workers)))
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now = min(until, self.clock.now + 1.0)
            for worker in self.workers:
                self._say(worker, announcement(worker.said, worker=worker.name), worker in announcing)

    def _say(self, worker: Worker, said: Announcement, arrives: bool) -> None:
        if self.linked and arrives:
            self.copies.received(said)
            worker.announced = self.clock.now

    def _is_announcing(self, worker: Worker) -> bool:
        return worker.announced is not None and self.clock.now < worker.announced + SILENCE_SECONDS

    @rule(target=reads, key=strategies.sampled_from(KEYS))
    def begin_read(self, key: str) -> Read:
        if self.copies.find(key):
            return multiple()  # type: ignore[return-value]
        return Read(self.copies.begin(key), self.versions[key])

    @rule(read=consumes(reads))
    def end_read(self, read: Read) -> None:
        self.copies.keep(read.reading, (read.version, read.reading.began), max_age=MAX_AGE)

    @rule(key=strategies.sampled_from(KEYS))
    def read_at_once(self, key: str) -> None:
        if not self.copies.find(key):
            self.end_read(Read(self.copies.begin(key), self.versions[key]))

    @rule(read=consumes(reads))
    def give_up_read(self, read: Read) -> None:
        self.copies.leave(read.reading)

    @precondition(lambda self: self.linked)
    @rule()
    def unlink(self) -> None:
        self.copies.lost()
        self.linked = False
        for worker in self.workers:
            worker.announced = None

    @precondition(lambda self: not self.linked)
    @rule()
    def link(self) -> None:
        self.copies.linked()
        self.linked = True

    @invariant()
    def nothing_is_served_beyond_its_bounds(self) -> None:
        for key in KEYS:
            if found := self.copies.find(key):
                version, began = found.value
                assert any(map(self._is_announcing, self.workers))
                assert self.clock.now < began + MAX_AGE
                assert self.clock.now < self.too_old_at.get((key, version), float("inf"))


NearCacheModel.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_a_near_cache_never_serves_beyond_its_bounds_whatever_is_lost = NearCacheModel.TestCase
