"""Guards of the drainer: each test is red without the line that it names."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from invalidator.broker.gap import Gap
from invalidator.broker.messages import Debt
from invalidator.broker.topology import Topology
from invalidator.errors import PoisonError, UnreachableError
from invalidator.runtime import metrics
from invalidator.settings import RingSettings, Settings
from invalidator.worker import drainer as module
from invalidator.worker.drainer import Drainer
from tests.logs import capture_logs
from tests.test_drainer import Batch, Message, Story

TOPOLOGY = Topology.of(Settings(cluster="eu", ring=RingSettings(nodes={"c1": "127.0.0.1:1"})))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSPECT_SECONDS", 0.0)


class Script(Story):
    """A story whose parking queue is found as scripted; the drainer is stopped behind the last finding."""

    def __init__(self, *findings: tuple[int, int] | Exception | None) -> None:
        super().__init__()
        self._findings = list(findings)
        self._over = asyncio.Event()
        self.gaps: list[Gap] = []
        self.sessions = 0

    def session(self) -> Any:
        self.sessions += 1
        return None if self.sessions == 1 else self  # at first there is no connection

    async def inspect(self, queue: str) -> Any:
        if not self._findings:
            self._over.set()
            return 0, 0
        found = self._findings.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def declare(self, topology: Topology) -> None:
        self.calls.append("declare")

    def drained(self, label: str) -> None:
        self.calls.append(("drained", label))

    async def dead_letter(self, delivery: Message, poison: PoisonError) -> None:
        self.calls.append(("dead-letter", poison.reason))

    async def play(self, *, declares: bool = False) -> "Script":
        part = cast(Any, self)
        drainer = Drainer(
            self.session, TOPOLOGY, part, part, part, tag="test", declares=declares, on_gap=self.gaps.append
        )
        running = asyncio.create_task(drainer.run())
        await self._over.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return self


async def test_a_parking_queue_that_was_seen_and_is_gone_is_a_gap_reported_once() -> None:
    before = datetime.now(UTC)
    story = await Script((0, 0), None, None).play()
    (gap,) = story.gaps
    assert "the parking queue of c1 was deleted" == gap.reason
    assert gap.since
    assert before <= gap.since
    assert "declare" not in story.calls


async def test_a_parking_queue_that_was_never_seen_is_no_gap() -> None:
    assert [] == (await Script(None, (0, 0)).play()).gaps


async def test_a_worker_that_declares_makes_a_missing_parking_queue_again() -> None:
    story = await Script(None, (0, 0)).play(declares=True)
    assert (1, 0) == (story.calls.count("declare"), story.calls.count("subscribe"))


async def test_an_empty_parking_queue_is_counted_from_zero_again_and_a_full_one_is_not() -> None:
    story = Script((3, 0))
    await story.play()
    assert ["subscribe", "close", ("drained", "c1")] == story.calls


async def test_the_number_of_debts_is_a_metric() -> None:
    seen: list[float] = []

    class Seeing(Script):
        async def subscribe(self, queue: str, **more: Any) -> Story:
            seen.append(metrics.DEBTS.labels("c1")._value.get())
            return await super().subscribe(queue, **more)

    await Seeing((7, 0)).play()
    assert [7.0] == seen


async def test_an_unreadable_debt_is_a_dead_letter_and_those_around_it_are_drained() -> None:
    story = Script((1, 0))
    batch = Batch(story, Debt(v=1, keys=["a"]), Debt(v=1, keys=["b"]))
    unreadable = Message(Debt(v=1))
    unreadable.body = b"no debt"
    batch.deliveries.insert(1, unreadable)
    story.batches = [batch]
    before = metrics.DRAINED.labels("c1")._value.get()
    await story.play()
    assert ("dead-letter", "unreadable-debt") in story.calls
    assert ("evict", "c1", "a", "b") in story.calls
    assert 2 == metrics.DRAINED.labels("c1")._value.get() - before


async def test_a_broker_that_fails_is_logged_once_for_each_outage(caplog: pytest.LogCaptureFixture) -> None:
    lost = UnreachableError("the broker was lost")
    await Script(lost, lost, (0, 0), lost).play()
    assert 2 == caplog.text.count("draining stopped; will try again")


async def test_the_log_says_how_many_keys_were_drained() -> None:
    story = Script((2, 0))
    story.batches = [Batch(story, Debt(v=1, keys=["a", "b"])), Batch(story, Debt(v=1, keys=["c"]))]
    with capture_logs() as lines:
        await story.play()
    assert [3] == [line["keys"] for line in lines if line["event"] == "drained"]


async def test_a_flush_without_keys_evicts_nothing_besides() -> None:
    story = Script((1, 0))
    story.batches = [Batch(story, Debt(v=1, flush=True))]
    await story.play()
    assert not [call for call in story.calls if call[0] == "evict"]
