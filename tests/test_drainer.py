"""The drainer with scripted parts and no server: when debts are acknowledged, and what is announced."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, cast

import msgspec
import pytest

from invalidator.broker.messages import Debt
from invalidator.broker.topology import Topology
from invalidator.memcached.breaker import State
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.memcached.failure import Failure
from invalidator.settings import RingSettings, Settings
from invalidator.worker import drainer as module
from invalidator.worker.drainer import Drainer

DOWN = Unreachable((b"a",), "hung", waited=True)
UP = Evicted(1)


class Message:
    def __init__(self, debt: Debt) -> None:
        self.body = msgspec.json.encode(debt)


class Batch:
    def __init__(self, story: "Story", *debts: Debt) -> None:
        self.deliveries = [Message(debt) for debt in debts]
        self.subscription = story


class Story:
    """All parts of a drainer at once, which write down the calls they get, in order."""

    def __init__(self, *batches: Sequence[Debt]) -> None:
        self.calls: list[Any] = []
        self.batches = [Batch(self, *debts) for debts in batches]
        self.answers: dict[str, Answer] = {"flush": UP, "evict": UP}
        self.state = State()
        self.inspected = asyncio.Event()
        self.labels = ("c1",)

    # The session and its subscription

    async def inspect(self, queue: str) -> tuple[int, int]:
        assert queue == "invalidator.eu.parked.c1"
        self.inspected.set()
        return len(self.batches), 0

    async def subscribe(self, queue: str, **_: Any) -> "Story":
        self.calls.append("subscribe")
        return self

    async def batch_within(self, seconds: float, limit: int) -> Batch | None:
        return self.batches.pop(0) if self.batches else None

    async def settle(self, batch: Batch) -> None:
        self.calls.append("settle")

    async def close(self) -> None:
        self.calls.append("close")

    # The nodes, deferred work, announcer

    def states(self) -> dict[str, State]:
        return {"c1": self.state}

    async def flush(self, label: str) -> Answer:
        self.calls.append(("flush", label))
        return self.answers["flush"]

    async def evict_on(self, label: str, keys: Collection[bytes]) -> Answer:
        self.calls.append(("evict", label, *(key.decode() for key in keys)))
        return self.answers["evict"]

    def drained(self, label: str) -> None:
        pass

    def announce(self, keys: Sequence[str], *, drained: str) -> None:
        self.calls.append(("announce", drained, *keys))

    def announce_everything(self, label: str) -> None:
        self.calls.append(("announce everything", label))

    async def drained_once(self) -> list[Any]:
        """Run a drainer over all batches, and return the calls."""
        every_part = cast(Any, self)
        drainer = Drainer(
            lambda: every_part,
            Topology.of(Settings(cluster="eu", ring=RingSettings(nodes={"c1": "127.0.0.1"}))),
            every_part,
            every_part,
            every_part,
            tag="test",
            declares=False,
            on_gap=lambda gap: None,
        )
        running = asyncio.create_task(drainer.run())
        async with asyncio.timeout(10):
            for _ in range(3):
                self.inspected.clear()
                await self.inspected.wait()
        running.cancel()
        return self.calls


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSPECT_SECONDS", 0.0)


def keys(*names: str) -> Debt:
    return Debt(v=1, keys=list(names))


FLUSH = Debt(v=1, flush=True)


async def test_drained_keys_are_evicted_announced_and_only_then_acknowledged() -> None:
    story = Story([keys("a", "b"), keys("b", "c")])
    assert [
        "subscribe",
        ("evict", "c1", "a", "b", "c"),
        ("announce", "c1", "a", "b", "c"),
        "settle",
        "close",
    ] == await story.drained_once()


@pytest.mark.parametrize("debts", [[FLUSH, keys("a")], [keys("a"), FLUSH], [keys("a"), FLUSH, keys("a")]])
async def test_one_flush_among_the_debts_of_a_batch_flushes_the_node(debts: list[Debt]) -> None:
    assert [
        "subscribe",
        ("flush", "c1"),
        ("evict", "c1", "a"),
        ("announce everything", "c1"),
        ("announce", "c1", "a"),
        "settle",
        "close",
    ] == await Story(debts).drained_once()


@pytest.mark.parametrize("failing", ["flush", "evict"])
async def test_debts_are_acknowledged_only_if_both_flush_and_eviction_are_confirmed(failing: str) -> None:
    story = Story([FLUSH, keys("a")])
    story.answers[failing] = DOWN
    calls = await story.drained_once()
    assert "settle" not in calls
    assert not [call for call in calls if call[0].startswith("announce")]


async def test_draining_ends_when_the_node_stops_answering() -> None:
    story = Story([keys("a")], [keys("b")])
    story.answers["evict"] = DOWN
    story.state = State()

    async def evict_on(label: str, keys: Collection[bytes]) -> Answer:
        story.state = State(is_open=True, reason="hung", failure=Failure.DEADLINE)
        return DOWN

    story.evict_on = evict_on  # type: ignore[method-assign]
    assert ["subscribe", "close"] == await story.drained_once()
    assert 1 == len(story.batches), "the second batch was not taken"


async def test_nothing_is_drained_while_the_breaker_is_open() -> None:
    story = Story([keys("a")])
    story.state = State(is_open=True, reason="hung", failure=Failure.DEADLINE)
    assert [] == await story.drained_once()
