"""`invalidator status` without a server: from what the management API tells to what is wrong."""

from datetime import UTC, datetime
from typing import Any

import pytest

from invalidator.broker.gap import GAP_ARGUMENT, Gap
from invalidator.operate.findings import worst
from invalidator.operate.status import Told, described, judged, known_clusters
from invalidator.settings import BrokerSettings, ManagementSettings, Settings

SETTINGS = Settings(cluster="eu")
QUEUE = "invalidator.eu"


def told(*, bound: tuple[str, ...] = (QUEUE,), consumers: int = 1, gap: str = "", **queues: Any) -> Told:
    """One healthy cluster, but for what is given; a queue's last word stands for its name: ``dead={...}``."""
    names = {"eu": QUEUE, "dead": f"{QUEUE}.dead", "parked": f"{QUEUE}.parked.c2", "us": "invalidator.us"}
    well: dict[str, Any] = {"eu": {"messages_ready": 0, "state": "running"}, "dead": {"messages": 0}}
    arguments: Any = {GAP_ARGUMENT: gap} if gap else []  # none comes as a list
    consumer = {"queue": {"name": QUEUE}, "arguments": arguments}
    listed = {names[name]: queue for name, queue in (well | queues).items() if queue is not None}
    return Told(listed, [consumer] * consumers, list(bound))


def found(seen: Told) -> tuple[int, list[str]]:
    findings = list(judged(described(SETTINGS, "eu", seen)))
    assert all(finding.fix for finding in findings)
    return worst(findings), [finding.text for finding in findings]


def test_a_healthy_cluster_has_nothing_wrong() -> None:
    assert (0, []) == found(told())


KNOWN = Gap(datetime(2026, 11, 25, 14, tzinfo=UTC), datetime(2026, 11, 25, 15, tzinfo=UTC), "deleted")


@pytest.mark.parametrize(
    ("seen", "code", "words"),
    [
        (told(eu=None), 69, "there is no queue invalidator.eu"),
        (told(eu={"state": "minority"}), 69, "is minority: nothing goes in or out"),
        (told(bound=()), 69, "is not bound: no event arrives"),
        (told(consumers=0), 69, "no worker consumes"),
        (told(eu={"messages_unacknowledged": 3}), 75, "none of the events that wait is being settled: 3"),
        (told(dead={"messages": 2}), 75, "dead letters: 2"),
        (told(parked={"messages": 5}), 75, "c2 did not answer and is owed keys, debts: 5"),
        (told(gap=str(KNOWN)), 75, "gap since 2026-11-25T14:00:00Z until 2026-11-25T15:00:00Z: deleted"),
    ],
)
def test_what_is_wrong_is_named_first(seen: Told, code: int, words: str) -> None:
    exit_code, texts = found(seen)
    assert code == exit_code
    assert words in texts[0]


def test_events_that_wait_while_others_are_settled_are_no_fault() -> None:
    busy = {"messages_ready": 900, "message_stats": {"ack_details": {"rate": 50.0}, "publish_details": {"rate": 60.0}}}
    assert (0, []) == found(told(eu=busy))


def test_a_gap_at_the_very_first_start_is_no_fault_but_told() -> None:
    first = Gap(None, KNOWN.until, "the queue was not there")
    assert (0, ["gap since unknown until 2026-11-25T15:00:00Z: the queue was not there"]) == found(told(gap=str(first)))


def test_every_gap_of_several_workers_is_told_once() -> None:
    assert [str(KNOWN)] == described(SETTINGS, "eu", told(consumers=3, gap=str(KNOWN))).gaps


def test_clusters_are_those_configured_expected_bound_or_left_behind() -> None:
    settings = Settings(cluster="eu", management=ManagementSettings(expect=["asia"]))
    names = ("invalidator.old", "invalidator.old.dead", "invalidator.eu.parked.c1", "amq.gen-1")
    left: dict[str, Any] = {name: {} for name in names}
    seen = Told(left, [], ["invalidator.us", "somebody-elses", "invalidator-tail.host.1"])
    assert ["asia", "eu", "old", "us"] == known_clusters(settings, seen)


def test_a_cluster_whose_queue_has_a_name_of_its_own_is_found_by_it() -> None:
    settings = Settings(cluster="eu", broker=BrokerSettings(queue="evictions"))
    seen = Told({"evictions": {"messages_ready": 4}}, [], ["evictions"])
    assert ["eu"] == known_clusters(settings, seen)
    assert (4, True) == ((one := described(settings, "eu", seen)).waiting, one.bound)
