"""The path of a batch, with scripted parts and no server: when it is settled, and what happens on a failure."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from invalidator.broker.consume.subscription import Batch, Subscription
from invalidator.broker.gap import Gap
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import PoisonError, UnconfirmedError
from invalidator.memcached.cluster import Outcome
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.runtime import metrics
from invalidator.worker.pipeline import STUCK_SECONDS, InFlight, Pipeline, Sight
from invalidator.worker.planner import Plan


def batch_of(*names: str) -> Batch:
    """Return a batch whose deliveries are mere names."""
    return Batch(cast(list[Delivery], list(names)), cast(Subscription, None), 0)


def named(deliveries: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, deliveries))


class Story:
    """All parts of a pipeline at once, which write down the calls they get, in order."""

    def __init__(self, *batches: Batch) -> None:
        self.calls: list[Any] = []
        self._batches = list(batches)
        self.unreachable: dict[str, list[bytes]] = {}
        self.answers_again: list[Answer] = []
        self.delay_ms = 0
        self.refusals: list[Exception] = []
        self.evicting: asyncio.Event | None = None
        self.answered: dict[str, list[str]] | None = None
        self.taken = asyncio.Event()
        self.on_ready: Callable[[], None] = lambda: None
        #: Replaced where the world changes while a batch waits.
        self.at_back_off: Callable[[], None] = lambda: None

    def take(self) -> Batch | None:
        self.taken.set()
        return self._batches.pop(0) if self._batches else None

    async def hand_out(self) -> None:
        while self._batches:
            self.on_ready()
            await asyncio.sleep(0)

    async def settle(self, batch: Batch) -> None:
        self.calls.append(("settle", *named(batch.deliveries)))

    async def refuse(self, batch: Batch, delivery: Delivery) -> None:
        self.calls.append(("refuse", *named([delivery])))

    def plan(self, deliveries: Sequence[Any]) -> Plan[Any]:
        plan: Plan[Any] = Plan()
        for delivery in named(deliveries):
            if delivery.startswith("poison"):
                plan.poison.append((delivery, PoisonError("not-json", "it is not")))
            elif delivery.startswith("gap"):
                plan.gaps.append(Gap(None, datetime(2026, 5, 17, tzinfo=UTC), delivery))
            elif delivery.startswith("twice"):
                plan.keys.append(delivery.encode())
                plan.again = {self.delay_ms: [delivery.encode()]}
            else:
                plan.keys.append(delivery.encode())
        plan.texts = [key.decode() for key in plan.keys]
        return plan

    async def evict(self, keys: Collection[bytes]) -> Outcome:
        if self.evicting:
            await self.evicting.wait()
        self.calls.append(("evict", *(key.decode() for key in keys)))
        unconfirmed = {label: Unreachable(tuple(keys), "hung", True) for label, keys in self.unreachable.items()}
        return Outcome({"healthy": len(keys)}, unconfirmed)

    async def evict_on(self, label: str, keys: Collection[bytes]) -> Answer:
        self.calls.append(("evict on", label))
        return self.answers_again.pop(0)

    def _refuse_perhaps(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    async def park(self, label: str, keys: Sequence[bytes]) -> None:
        self._refuse_perhaps()
        self.calls.append(("park", label, *(key.decode() for key in keys)))

    async def remember_gap(self, gap: Gap) -> None:
        self._refuse_perhaps()
        self.calls.append(("remember", gap.reason))

    async def evict_again(self, delay_ms: int, keys: Sequence[bytes]) -> None:
        self._refuse_perhaps()
        self.calls.append(("again", delay_ms, *(key.decode() for key in keys)))

    async def dead_letter(self, delivery: str, poison: PoisonError) -> None:
        self._refuse_perhaps()
        self.calls.append(("dead-letter", delivery, poison.reason))

    def announce(self, keys: Sequence[str], event_ids: Sequence[str], parked: Collection[str]) -> None:
        self.calls.append(("announce", len(keys), *parked))

    def answer(
        self, deliveries: Sequence[str], parked: Mapping[str, Collection[bytes]], *, milliseconds: float
    ) -> None:
        self.answered = {label: [key.decode() for key in keys] for label, keys in parked.items()}

    def pipeline(self, *, in_flight: int = 2, sight: Sight | None = None) -> Pipeline:
        async def back_off() -> None:
            self.calls.append("back off")
            self.at_back_off()

        parts = [cast(Any, self)] * 6
        return Pipeline(*parts, in_flight=in_flight, sight=sight, back_off=back_off)


async def test_a_batch_is_evicted_announced_and_only_then_settled() -> None:
    story = Story(batch_of("a", "b"))
    await story.pipeline().run()
    assert story.calls == [("evict", "a", "b"), ("announce", 2), ("settle", "a", "b")]


async def test_keys_of_an_unreachable_node_are_parked_before_the_batch_is_settled() -> None:
    story = Story(batch_of("a", "b"))
    story.unreachable = {"hung": [b"b"]}
    await story.pipeline().run()
    assert story.calls == [("evict", "a", "b"), ("park", "hung", "b"), ("announce", 2, "hung"), ("settle", "a", "b")]
    assert story.answered == {"hung": ["b"]}


async def test_a_gap_that_a_publisher_reports_is_stored_before_the_batch_is_settled() -> None:
    story, before = Story(batch_of("gap", "b")), metrics.GAPS._value.get()
    story.refusals = [UnconfirmedError("alarm")]
    await story.pipeline().run()
    assert [
        ("evict", "b"),
        "back off",
        ("remember", "gap"),
        ("announce", 1),
        ("settle", "gap", "b"),
    ] == story.calls
    assert before + 1 == metrics.GAPS._value.get()


async def test_a_second_eviction_is_stored_before_the_batch_is_settled() -> None:
    story = Story(batch_of("twice a", "b"))
    story.delay_ms = 5000
    await story.pipeline().run()
    assert story.calls == [
        ("evict", "twice a", "b"),
        ("again", 5000, "twice a"),
        ("announce", 2),
        ("settle", "twice a", "b"),
    ]


async def test_a_second_eviction_that_cannot_be_stored_is_tried_again_until_it_is_due() -> None:
    story = Story(batch_of("twice a"))
    story.delay_ms = 3_600_000
    story.refusals = [UnconfirmedError("alarm"), UnconfirmedError("alarm")]
    await story.pipeline().run()
    stored = ("again", 3_600_000, "twice a")
    assert story.calls == [("evict", "twice a"), "back off", "back off", stored, ("announce", 1), ("settle", "twice a")]


async def test_a_second_eviction_that_could_not_be_stored_before_it_is_due_is_done_here() -> None:
    story = Story(batch_of("twice a"))
    story.refusals = [UnconfirmedError("alarm")]
    await story.pipeline().run()
    again = ("evict", "twice a")
    assert story.calls == [again, "back off", again, ("announce", 1), ("settle", "twice a")]


async def test_a_batch_that_cannot_be_parked_backs_off_and_tries_node_and_queue_in_turn() -> None:
    story = Story(batch_of("a"))
    story.unreachable = {"hung": [b"a"]}
    story.refusals = [UnconfirmedError("alarm"), UnconfirmedError("alarm")]
    story.answers_again = [Unreachable((b"a",), "hung", False), Unreachable((b"a",), "hung", False)]
    await story.pipeline().run()
    assert story.calls == [
        ("evict", "a"),
        "back off",
        ("evict on", "hung"),
        "back off",
        ("evict on", "hung"),
        ("park", "hung", "a"),
        ("announce", 1, "hung"),
        ("settle", "a"),
    ]


async def test_nothing_is_parked_for_a_node_that_is_back_before_parking_is_possible() -> None:
    story = Story(batch_of("a"))
    story.unreachable = {"hung": [b"a"]}
    story.refusals = [UnconfirmedError("alarm")]
    story.answers_again = [Evicted(1)]
    await story.pipeline().run()
    assert story.calls == [("evict", "a"), "back off", ("evict on", "hung"), ("announce", 1), ("settle", "a")]


async def test_poison_is_dead_lettered_with_its_reason_and_its_neighbours_are_evicted() -> None:
    story = Story(batch_of("a", "poison 1", "b"))
    await story.pipeline().run()
    assert ("evict", "a", "b") in story.calls
    assert story.calls.index(("dead-letter", "poison 1", "not-json")) < story.calls.index(
        ("settle", "a", "poison 1", "b")
    )


async def test_poison_that_cannot_be_published_is_refused_through_the_intake() -> None:
    story = Story(batch_of("a", "poison 1"))
    story.refusals = [UnconfirmedError("alarm")]
    await story.pipeline().run()
    assert story.calls == [("evict", "a"), ("refuse", "poison 1"), ("announce", 1), ("settle", "a", "poison 1")]


async def test_no_more_batches_are_taken_than_may_be_in_flight() -> None:
    story = Story(batch_of("a"), batch_of("b"), batch_of("c"))
    story.evicting = asyncio.Event()
    running = asyncio.create_task(story.pipeline(in_flight=2).run())
    await story.taken.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(story._batches) == 1
    story.evicting.set()
    await running
    assert {("settle", "a"), ("settle", "b"), ("settle", "c")} <= set(story.calls)


async def test_cancelling_the_pipeline_settles_nothing_that_is_not_evicted() -> None:
    story = Story(batch_of("a"))
    story.evicting = asyncio.Event()
    running = asyncio.create_task(story.pipeline(in_flight=1).run())
    await story.taken.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert story.calls == []


async def test_an_unexpected_error_ends_the_pipeline_and_settles_nothing() -> None:
    story = Story(batch_of("a"))
    story.unreachable = {"hung": [b"a"]}

    async def park(label: str, keys: Sequence[bytes]) -> None:
        raise ZeroDivisionError

    story.park = park  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        await story.pipeline().run()
    assert caught.group_contains(ZeroDivisionError)
    assert ("settle", "a") not in story.calls


async def test_after_a_batch_that_failed_no_other_is_taken() -> None:
    story = Story(batch_of("a"), batch_of("b"))

    async def settle(batch: Batch) -> None:
        asyncio.get_running_loop().call_soon(story.on_ready)  # what the socket does before the pipeline has ended
        raise ZeroDivisionError

    story.settle = settle  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        await story.pipeline(in_flight=1).run()
    assert caught.group_contains(ZeroDivisionError)
    assert 1 == len(story._batches)


async def test_a_cancelled_pipeline_takes_nothing_more_and_raises_nothing_where_the_socket_is_read() -> None:
    story, idle = Story(), asyncio.Event()

    async def hand_out() -> None:
        idle.set()
        await asyncio.Event().wait()

    story.hand_out = hand_out  # type: ignore[method-assign]
    running = asyncio.create_task(story.pipeline().run())
    await idle.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    story._batches = [batch_of("a")]
    story.on_ready()
    assert 1 == len(story._batches)


async def test_parking_that_is_impossible_for_long_is_logged_once_for_each_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = Story(batch_of("a"))
    story.unreachable = {"c1": [b"a"], "c2": [b"a"]}
    story.refusals = [*[UnconfirmedError("full")] * 10]
    story.answers_again = [Unreachable((b"a",), "hung", True)] * 10
    await story.pipeline().run()
    found = [record.getMessage() for record in caplog.records if "cannot publish to the parking" in record.getMessage()]
    assert 1 == len(found)


async def test_an_error_in_planning_ends_the_pipeline_and_is_not_raised_where_the_socket_is_read() -> None:
    story = Story(batch_of("a"), batch_of("b"))

    def plan(deliveries: Sequence[str]) -> Plan[Any]:
        raise ZeroDivisionError

    story.plan = plan  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        await story.pipeline().run()
    assert caught.group_contains(ZeroDivisionError)
    assert story.calls == []
    assert len(story._batches) == 1, "after it nothing more is taken"


async def test_batches_that_gather_while_there_is_room_are_planned_and_sent_before_anything_else_runs() -> None:
    story = Story()
    pipeline = story.pipeline()
    planned: list[list[bytes]] = []

    class Evictor(Story):
        def evict(self, keys: Collection[bytes]) -> Any:
            planned.append(list(keys))
            return super().evict(keys)

    pipeline._evictor = Evictor()

    async def hand_out() -> None:
        story._batches = [batch_of("a"), batch_of("b"), batch_of("c")]
        story.on_ready()
        assert planned == [[b"a"], [b"b"]], "as many as may be in flight"
        while story._batches:
            await asyncio.sleep(0)

    story.hand_out = hand_out  # type: ignore[method-assign]
    await pipeline.run()
    assert planned == [[b"a"], [b"b"], [b"c"]]


async def test_what_holds_up_the_keys_of_healthy_nodes_is_named() -> None:
    story = Story(batch_of("a"), batch_of("b"))
    story.unreachable = {"hung": [b"a"]}
    story.refusals = [UnconfirmedError("alarm"), UnconfirmedError("alarm")]
    story.answers_again = [Evicted(1), Evicted(1)]
    states: list[str | None] = []

    async def back_off() -> None:
        states.append(pipeline.waits_for())
        await asyncio.sleep(0)

    pipeline = story.pipeline(in_flight=2)
    pipeline._back_off = back_off
    await pipeline.run()
    one = "parking for hung is impossible"
    assert [one, f"{one}; until then the keys of all nodes wait"] == states


@dataclass
class Clock:
    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now


async def test_a_batch_is_stuck_past_its_deadline_but_never_while_it_waits_in_a_named_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("invalidator.worker.pipeline.time", clock)
    batch = InFlight()
    clock.now = STUCK_SECONDS + 1
    assert batch.is_stuck()

    async def long_outage() -> None:
        clock.now += 1000 * STUCK_SECONDS
        assert not batch.is_stuck()
        assert batch.waits_for == "parking for c1 is impossible"

    await batch.wait("parking for c1 is impossible", long_outage)
    assert not batch.is_stuck()
    clock.now += STUCK_SECONDS + 1
    assert batch.is_stuck()


async def test_nodes_that_do_not_confirm_a_second_eviction_done_here_get_its_keys_parked() -> None:
    story = Story(batch_of("twice a"))
    story.refusals = [UnconfirmedError("alarm")]
    first = story.evict

    async def evict(keys: Collection[bytes]) -> Outcome:
        outcome = await first(keys)
        story.unreachable = {"hung": [b"twice a"]}  # from now on
        return outcome

    story.evict = evict  # type: ignore[method-assign]
    await story.pipeline().run()
    again = ("evict", "twice a")
    assert story.calls == [
        again,
        "back off",
        again,
        ("park", "hung", "twice a"),
        ("announce", 1),
        ("settle", "twice a"),
    ]


async def test_an_unexpected_error_while_dead_lettering_ends_the_pipeline_and_settles_nothing() -> None:
    story = Story(batch_of("a", "poison 1"))
    story.refusals = [ZeroDivisionError()]
    with pytest.raises(ExceptionGroup) as caught:
        await story.pipeline().run()
    assert caught.group_contains(ZeroDivisionError)
    assert story.calls == [("evict", "a")]
