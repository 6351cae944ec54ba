"""Announcements leave in order and numbered, none too large, and a dropped one leaves a gap in the numbers."""

import asyncio
from typing import Any

import msgspec
import pytest

from invalidator.broker.messages import ANNOUNCED_KEYS, Announcement, UnmatchedType, WorkerState, read_announcement
from invalidator.broker.topology import Topology
from invalidator.errors import PoisonError
from invalidator.settings import EventLogSettings, Settings
from invalidator.worker.announcer import WAITING, Announcer, Healed


class Wire:
    """A publisher that keeps what is sent."""

    def __init__(self, expected: int) -> None:
        self.sent: list[Announcement] = []
        self.headers: Any = None
        self.done = asyncio.Event()
        self._expected = expected

    async def publish(self, body: bytes, *, routing_key: str, properties: Any, **_: Any) -> None:
        self.headers = properties.headers
        self.sent.append(read_announcement(body))
        assert routing_key == self.sent[-1].cluster
        if len(self.sent) == self._expected:
            self.done.set()


async def sent(announcer: Announcer, wire: Wire) -> list[Announcement]:
    running = asyncio.create_task(announcer.run())
    await wire.done.wait()
    running.cancel()
    return wire.sent


def announcer_on(wire: Wire) -> Announcer:
    return Announcer(wire, Topology.of(Settings(cluster="eu")), worker="eu.host.1")  # type: ignore[arg-type]


def keys(count: int) -> list[str]:
    return [f"product:{number}" for number in range(count)]


async def test_a_worker_states_itself_once_a_second_and_not_with_each_announcement() -> None:
    wire, state = Wire(3), WorkerState("ring", "rules", [UnmatchedType("product_updatd", "product_updated")])
    topology = Topology.of(Settings(cluster="eu"))
    announcer = Announcer(wire, topology, worker="eu.host.1", state=lambda: state)  # type: ignore[arg-type]
    announcer.announce(keys(2 * ANNOUNCED_KEYS + 1))
    assert [state, None, None] == [announcement.state for announcement in await sent(announcer, wire)]


async def test_many_keys_are_announced_in_several_parts_each_with_its_number() -> None:
    wire = Wire(3)
    announcer = announcer_on(wire)
    announcer.announce(keys(2 * ANNOUNCED_KEYS + 1), ["event-1"], {"c1": 3})
    announcements = await sent(announcer, wire)
    assert [1, 2, 3] == [one.number for one in announcements]
    assert keys(2 * ANNOUNCED_KEYS + 1) == [key for one in announcements for key in one.keys]
    assert [["event-1"], [], []] == [one.events for one in announcements]
    assert [["c1"]] * 3 == [one.parked for one in announcements]


async def test_the_heartbeat_after_a_drop_has_the_number_that_was_dropped() -> None:
    wire = Wire(WAITING + 1)
    announcer = announcer_on(wire)
    for _ in range(WAITING + 5):
        announcer.announce(keys(ANNOUNCED_KEYS))
    last = (await sent(announcer, wire))[-1]
    assert last.is_heartbeat
    assert last.number == WAITING + 5


async def test_batches_that_come_together_are_announced_together_as_far_as_they_fit() -> None:
    wire = Wire(3)
    announcer = announcer_on(wire)
    announcer.announce(["a"], ["event-1"])
    announcer.announce(["b"], ["event-2"])
    announcer.announce(["c"], parked={"c1": 1})
    announcer.announce(keys(ANNOUNCED_KEYS), parked={"c1": 1})
    first, parked, last = await sent(announcer, wire)
    assert (["a", "b"], ["event-1", "event-2"], []) == (first.keys, first.events, first.parked)
    assert (["c"], ["c1"]) == (parked.keys, parked.parked)
    assert (ANNOUNCED_KEYS, [1, 2, 3]) == (len(last.keys), [first.number, parked.number, last.number])


async def test_a_batch_that_evicted_nothing_is_not_announced() -> None:
    wire = Wire(1)
    announcer = announcer_on(wire)
    announcer.announce([])
    (only,) = await sent(announcer, wire)
    assert (only.is_heartbeat, only.number) == (True, 0)


async def test_what_was_drained_or_healed_is_announced_apart_from_the_rest() -> None:
    wire = Wire(4)
    announcer = announcer_on(wire)
    announcer.announce(["a"], ["event-1"])
    announcer.announce(["b"], drained="c1")
    announcer.announce(["c"], drained="c2")
    Healed(announcer).announce(["d"], ["event-2"], {})
    assert [("", False), ("c1", False), ("c2", False), ("", True)] == [
        (one.drained, one.healed) for one in await sent(announcer, wire)
    ]


@pytest.mark.parametrize("enabled", [False, True])
async def test_only_with_a_log_an_announcement_says_when(enabled: bool) -> None:
    wire = Wire(1)
    settings = Settings(cluster="eu", event_log=EventLogSettings(enabled=enabled))
    announcer = Announcer(wire, Topology.of(settings), worker="eu.host.1")  # type: ignore[arg-type]
    announcer.announce(["a"])
    await sent(announcer, wire)
    assert enabled == bool(wire.headers)


async def test_a_flushed_node_is_announced_without_keys() -> None:
    wire = Wire(1)
    announcer = announcer_on(wire)
    announcer.announce_everything("c1")
    (only,) = await sent(announcer, wire)
    assert (only.is_heartbeat, only.everything, only.number, only.drained) == (False, True, 1, "c1")


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b'{"cluster": "eu"}', b'{"cluster":"eu","worker":"w","number":"1"}']
)
def test_an_announcement_that_no_worker_sends_is_refused(body: bytes) -> None:
    with pytest.raises(PoisonError, match="this version cannot read the announcement"):
        read_announcement(body)


def test_a_field_of_a_later_version_is_ignored() -> None:
    body = msgspec.json.encode({"cluster": "eu", "worker": "w", "number": 1, "colour": "blue"})
    assert Announcement("eu", "w", 1) == read_announcement(body)
