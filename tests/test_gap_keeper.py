"""A worker's gaps: reported at once, and stored until the broker has confirmed them."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from invalidator.broker.errors import AlarmError, is_in_an_alarm
from invalidator.broker.gap import Gap
from invalidator.broker.topology import Topology
from invalidator.errors import UnconfirmedError
from invalidator.settings import Settings
from invalidator.worker.gap_keeper import GapKeeper
from tests.logs import capture_logs

TEN = datetime(2026, 5, 17, 10, tzinfo=UTC)


class Post:
    """A publisher that refuses a number of times, and then keeps what is sent."""

    def __init__(self, refusals: int, expected: int, refusal: Exception | None = None) -> None:
        self.sent: list[tuple[str, Gap]] = []
        self.done = asyncio.Event()
        self._refusals = refusals
        self._refusal = refusal or UnconfirmedError("a full queue")
        self._expected = expected

    async def publish(self, body: bytes, *, routing_key: str, **_: Any) -> None:
        if self._refusals:
            self._refusals -= 1
            raise self._refusal
        self.sent.append((routing_key, msgspec.json.decode(body, type=Gap)))
        if len(self.sent) == self._expected:
            self.done.set()


async def test_gaps_are_logged_at_once_and_stored_in_order_when_the_broker_takes_them() -> None:
    async def back_off() -> None:
        await asyncio.sleep(0)

    post, topology = Post(refusals=3, expected=2), Topology.of(Settings(cluster="eu"))
    keeper = GapKeeper(post, topology, back_off=back_off)  # type: ignore[arg-type]
    gaps = [Gap(None, TEN, "deleted"), Gap(TEN, TEN, "purged")]
    with capture_logs() as logs:
        for gap in gaps:
            keeper.keep(gap)
        assert ["error", "error"] == [line["log_level"] for line in logs]
        running = asyncio.create_task(keeper.run())
        await post.done.wait()
        running.cancel()
    assert [("invalidator.eu.gaps", gap) for gap in gaps] == post.sent
    assert ["cannot store the gap; retrying, so that it outlives this worker"] == [
        line["event"] for line in logs if line["log_level"] == "warning"
    ]


def keeper_of(post: Post) -> GapKeeper:
    return GapKeeper(post, Topology.of(Settings(cluster="eu")))  # type: ignore[arg-type]


async def test_an_alarm_keeps_a_lost_queue_from_being_made_again() -> None:
    with pytest.raises(AlarmError):
        await keeper_of(Post(refusals=1, expected=1, refusal=is_in_an_alarm())).store_first(Gap(None, TEN, "deleted"))


async def test_nothing_but_an_alarm_keeps_a_lost_queue_from_being_made_again() -> None:
    await keeper_of(Post(refusals=1, expected=1)).store_first(Gap(None, TEN, "deleted"))
