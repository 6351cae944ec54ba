"""A worker's position: stored when it has moved, and from time to time when it has not."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from invalidator.broker.messages import read_own
from invalidator.broker.positions import Position
from invalidator.broker.topology import Topology
from invalidator.settings import Settings
from invalidator.worker.position_keeper import KEEP_AGAIN_SECONDS, KEEP_SECONDS, PositionKeeper
from tests.virtual_time import in_virtual_time

TEN = datetime(2026, 5, 17, 10, tzinfo=UTC)


class Post:
    def __init__(self) -> None:
        self.sent: list[datetime] = []

    async def publish(self, body: bytes, **_: Any) -> None:
        self.sent.append(msgspec.json.decode(body, type=Position).settled_until)


async def stored(positions: list[datetime], *, seconds: float) -> list[datetime]:
    """Return what a keeper stores in some seconds of these positions; the last one is repeated."""
    post = Post()

    def position() -> tuple[datetime, bool]:
        return positions.pop(0) if len(positions) > 1 else positions[0], False

    keeper = PositionKeeper(position, post, Topology.of(Settings(cluster="eu")), worker="a")  # type: ignore[arg-type]
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(seconds)
    running.cancel()
    return post.sent


@in_virtual_time
async def test_a_position_is_stored_whenever_it_has_moved() -> None:
    positions = [TEN + n * timedelta(seconds=1) for n in range(3)]
    assert positions == await stored(list(positions), seconds=3 * KEEP_SECONDS + 1)


@in_virtual_time
async def test_the_position_of_a_worker_that_is_stuck_is_stored_again_so_that_others_do_not_push_it_out() -> None:
    assert [TEN, TEN] == await stored([TEN], seconds=KEEP_AGAIN_SECONDS + 2 * KEEP_SECONDS + 1)


def test_a_position_that_this_version_cannot_read_is_left_out() -> None:
    position = Position("w1", TEN, is_everything=False)
    assert position == read_own(msgspec.json.encode(position), Position)
    assert [None] * 4 == [read_own(body, Position) for body in (b"", b"{}", b"\xff", b"[" * 5000)]
