"""Guards of the pipeline: each test is red without the line that it names."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from invalidator.errors import UnconfirmedError
from invalidator.memcached.eviction import Unreachable
from invalidator.runtime import metrics
from invalidator.worker import pipeline as module
from invalidator.worker.pipeline import Pipeline
from tests.test_pipeline import Story, batch_of
from tests.virtual_time import in_virtual_time


class Waiting(Story):
    """A story whose intake holds nothing and waits for more."""

    async def hand_out(self) -> None:
        await asyncio.Event().wait()


async def test_a_batch_that_comes_after_an_idle_pipeline_was_cancelled_is_not_taken() -> None:
    story = Waiting()
    running = asyncio.create_task(story.pipeline().run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    story._batches.append(batch_of("a"))
    story.on_ready()  # the socket's callback, which must not raise
    assert 1 == len(story._batches)


async def test_every_batch_is_reported_and_the_rest_at_the_end() -> None:
    story, report = Story(batch_of("a", "b"), batch_of("c")), Report()
    every_part = cast(Any, story)
    await Pipeline(*[every_part] * 6, report=cast(Any, report)).run()
    assert ([2, 1], True) == (report.events, report.is_closed)


class Report:
    is_closed = False

    def __init__(self) -> None:
        self.events: list[int] = []

    def settled(self, events: int, *_: object, **__: object) -> None:
        self.events.append(events)

    def close(self) -> None:
        self.is_closed = True


async def test_a_pipeline_without_receipts_settles_all_the_same() -> None:
    story = Story(batch_of("a"))
    every_part = cast(Any, story)
    await Pipeline(every_part, every_part, every_part, every_part, every_part, None).run()
    assert ("settle", "a") == story.calls[-1]
    assert story.answered is None


def test_an_idle_pipeline_waits_for_nothing() -> None:
    assert Story().pipeline().waits_for() is None


async def test_deliveries_are_counted_when_they_are_received() -> None:
    before = metrics.RECEIVED._value.get()
    await Story(batch_of("a", "b")).pipeline().run()
    assert 2 == metrics.RECEIVED._value.get() - before


async def test_a_receipt_says_how_many_milliseconds_its_batch_took(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.25])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    took: list[float] = []

    class Receipts(Story):
        def answer(self, *_: object, milliseconds: float, **__: object) -> None:
            took.append(milliseconds)

    await Receipts(batch_of("a")).pipeline().run()
    assert [250.0] == took


async def test_a_second_outage_of_parking_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    story = Story(batch_of("a"), batch_of("a"))
    story.unreachable = {"c1": [b"a"]}
    full = UnconfirmedError("full")
    story.answers_again = [Unreachable((b"a",), "hung", True)] * 2

    outcomes: list[Exception | None] = [full, None, full, None]

    async def park(label: str, keys: object) -> None:
        if error := outcomes.pop(0):
            raise error

    story.park = park  # type: ignore[method-assign]
    await story.pipeline(in_flight=1).run()
    found = [record.getMessage() for record in caplog.records if "cannot publish to the parking" in record.getMessage()]
    assert 2 == len(found)


async def test_a_second_eviction_is_due_after_its_delay_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(step=0.5)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    story = Story(batch_of("twice a"))
    story.delay_ms = 2000
    story.refusals = [UnconfirmedError("full")] * 20
    await story.pipeline().run()
    assert (2, 2) == (story.calls.count("back off"), story.calls.count(("evict", "twice a")))


async def test_second_evictions_that_cannot_be_stored_are_logged_once_for_each_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = Story(*(batch_of("twice a") for _ in range(2)))
    story.delay_ms = 3_600_000
    outcomes: list[Exception | None] = [
        UnconfirmedError("full"),
        UnconfirmedError("full"),
        None,
        UnconfirmedError("full"),
        None,
    ]

    async def evict_again(delay_ms: int, keys: object) -> None:
        if error := outcomes.pop(0):
            raise error

    story.evict_again = evict_again  # type: ignore[method-assign]
    before = metrics.AGAIN._value.get()
    await story.pipeline(in_flight=1).run()
    found = [record.getMessage() for record in caplog.records if "cannot store second" in record.getMessage()]
    assert (2, 2) == (len(found), metrics.AGAIN._value.get() - before)


async def test_dead_letters_that_cannot_be_published_are_logged_once_for_each_outage_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = Story(*(batch_of(f"poison {number}") for number in range(4)))
    outcomes: list[Exception | None] = [
        UnconfirmedError("full"),
        UnconfirmedError("full"),
        None,
        UnconfirmedError("full"),
    ]

    async def dead_letter(*_: object) -> None:
        if error := outcomes.pop(0):
            raise error

    story.dead_letter = dead_letter  # type: ignore[assignment,method-assign]
    refused, dead = metrics.REFUSED._value.get(), metrics.DEAD.labels("not-json")._value.get()
    await story.pipeline(in_flight=1).run()
    found = [record.getMessage() for record in caplog.records if "cannot publish a dead letter" in record.getMessage()]
    assert 2 == len(found)
    assert (3, 1) == (metrics.REFUSED._value.get() - refused, metrics.DEAD.labels("not-json")._value.get() - dead)


async def test_a_pipeline_is_stuck_while_one_of_its_batches_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    story = Story(batch_of("a"))
    story.evicting = asyncio.Event()
    pipeline = story.pipeline()
    running = asyncio.create_task(pipeline.run())
    await story.taken.wait()
    before, now[0] = pipeline.is_stuck(), module.STUCK_SECONDS + 1
    assert (False, True) == (before, pipeline.is_stuck())
    story.evicting.set()
    await running
    assert not pipeline.is_stuck()


@in_virtual_time
async def test_a_batch_that_has_to_wait_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pause", lambda: 0.25)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await module._back_off()
    assert pytest.approx(0.25) == loop.time() - began
