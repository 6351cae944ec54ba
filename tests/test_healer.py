"""The healer's looks at the stored gaps: when it heals, and when it looks again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from invalidator.broker.gap import Gap
from invalidator.broker.topology import Topology
from invalidator.settings import Settings
from invalidator.worker import healer as module
from invalidator.worker.healer import GATHER_SECONDS, Healer

TEN = datetime(2026, 5, 17, 10, tzinfo=UTC)
GAP = Gap(TEN, TEN, "deleted")


class Looks:
    """A healer whose session holds gaps that are scripted: at each look, the number that waits and those it reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        topology = Topology.of(Settings(cluster="eu"))
        nothing = cast(Any, None)
        self.healer = Healer(nothing, nothing, topology, nothing, nothing, rate=1, batch_events=1)
        self.healed: list[Gap] = []
        self.read = 0
        self.now = 0.0
        self.session = SimpleNamespace(connection=None, log_seen_at=TEN, missed_since=None, inspect=self._inspect)
        self.healer._marked = cast(Any, self.session)
        self._waiting = 0
        self._gaps: list[Gap] = []
        monkeypatch.setattr(self.healer, "_heal", self._heal)
        monkeypatch.setattr(module, "open_gaps", self._open_gaps)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    async def look(self, *gaps: Gap, waiting: int | None = None) -> None:
        self._waiting, self._gaps = len(gaps) if waiting is None else waiting, list(gaps)
        await self.healer._heal_what_is_open(cast(Any, self.session))

    async def _inspect(self, _: str) -> tuple[int, int]:
        return self._waiting, 0

    @asynccontextmanager
    async def _open_gaps(self, *_: Any) -> AsyncIterator[Any]:
        async def clear_covered() -> None:
            self.read += 1

        gap = self._gaps[0] if self._gaps else None
        yield SimpleNamespace(gap=gap, read=len(self._gaps), clear_covered=clear_covered)

    async def _heal(self, _: Any, gap: Gap) -> None:
        self.healed.append(gap)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


async def test_a_gap_is_healed_once_no_worker_has_made_it_longer_for_a_while(looks: Looks) -> None:
    longer = Gap(TEN, TEN.replace(hour=11), "deleted")
    await looks.look(GAP)
    looks.now = GATHER_SECONDS / 2
    await looks.look(longer)
    looks.now = GATHER_SECONDS
    await looks.look(longer)
    assert [] == looks.healed
    looks.now = 2 * GATHER_SECONDS
    await looks.look(longer)
    assert [longer] == looks.healed


async def test_a_replay_that_was_asked_for_begins_at_once(looks: Looks) -> None:
    replay = Gap(TEN, TEN, "asked for", is_asked_for=True)
    await looks.look(replay)
    assert [replay] == looks.healed


async def test_gaps_that_another_reader_holds_are_looked_for_again(looks: Looks) -> None:
    await looks.look(waiting=1)
    await looks.look(waiting=1)
    assert 2 == looks.read


async def test_gaps_that_are_all_closed_are_not_read_again_and_again(looks: Looks, monkeypatch: Any) -> None:
    @asynccontextmanager
    async def closed(*_: Any) -> AsyncIterator[Any]:
        async def clear_covered() -> None:
            looks.read += 1

        yield SimpleNamespace(gap=None, read=1, clear_covered=clear_covered)

    monkeypatch.setattr(module, "open_gaps", closed)
    await looks.look(waiting=1)
    await looks.look(waiting=1)
    assert 1 == looks.read


async def test_the_first_mark_of_a_session_says_once_since_when_no_broker_was_found(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = list[tuple[Any, Any]]()

    async def put_mark(_: Any, __: Any, at: Any, *, missed_since: Any) -> str:
        marks.append((at, missed_since))
        return "mark"

    monkeypatch.setattr(module, "put_mark", put_mark)
    nine = TEN.replace(hour=9)
    looks.healer._marked, looks.session.missed_since = None, nine
    await looks.look()
    await looks.look()
    assert ([(TEN, nine)], None) == (marks, looks.session.missed_since)
