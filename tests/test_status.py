"""`invalidator status` without a server: from the management API's answers to the faults."""

from datetime import UTC, datetime
from typing import Any

import pytest

from invalidator.broker.gap import GAP_ARGUMENT, Gap
from invalidator.broker.messages import UnmatchedType
from invalidator.operate.diagnosis.status import Snapshot, cluster_status, faults, known_clusters
from invalidator.operate.findings import worst
from invalidator.settings import BrokerSettings, ManagementSettings, Settings

SETTINGS = Settings(cluster="eu")
QUEUE = "invalidator.eu"


def snapshot(*, bound: tuple[str, ...] = (QUEUE,), consumers: int = 1, gap: str = "", **queues: Any) -> Snapshot:
    """Return one healthy cluster, changed by the arguments. A queue is named by its last word: ``dead={...}``."""
    names = {"eu": QUEUE, "dead": f"{QUEUE}.dead", "parked": f"{QUEUE}.parked.c2", "us": "invalidator.us"}
    well: dict[str, Any] = {"eu": {"messages_ready": 0, "state": "running"}, "dead": {"messages": 0}}
    arguments: Any = {GAP_ARGUMENT: gap} if gap else []  # an empty table comes as a list
    consumer = {"queue": {"name": QUEUE}, "arguments": arguments}
    listed = {names[name]: queue for name, queue in (well | queues).items() if queue is not None}
    return Snapshot(listed, [consumer] * consumers, list(bound))


def found(seen: Snapshot) -> tuple[int, list[str]]:
    findings = list(faults(cluster_status(SETTINGS, "eu", seen)))
    assert all(finding.fix for finding in findings)
    return worst(findings), [finding.text for finding in findings]


def test_a_healthy_cluster_has_nothing_wrong() -> None:
    assert (0, []) == found(snapshot())


KNOWN = Gap(datetime(2026, 11, 25, 14, tzinfo=UTC), datetime(2026, 11, 25, 15, tzinfo=UTC), "deleted")


@pytest.mark.parametrize(
    ("seen", "code", "words"),
    [
        (snapshot(eu=None), 69, "there is no queue invalidator.eu"),
        (snapshot(eu={"state": "minority"}), 69, "is minority: nothing goes in or out"),
        (snapshot(bound=()), 69, "is not bound: no event arrives"),
        (snapshot(consumers=0), 69, "no worker consumes"),
        (snapshot(eu={"messages_unacknowledged": 3}), 75, "no event is being settled, and 3 wait"),
        (snapshot(dead={"messages": 2}), 75, "dead letters: 2"),
        (snapshot(parked={"messages": 5}), 75, "c2 did not answer, parked debts: 5"),
        (snapshot(gap=str(KNOWN)), 75, "gap since 2026-11-25T14:00:00Z until 2026-11-25T15:00:00Z: deleted"),
    ],
)
def test_what_is_wrong_is_named_first(seen: Snapshot, code: int, words: str) -> None:
    exit_code, texts = found(seen)
    assert code == exit_code
    assert words in texts[0]


def test_events_that_wait_while_others_are_settled_are_no_fault() -> None:
    busy = {"messages_ready": 900, "message_stats": {"ack_details": {"rate": 50.0}, "publish_details": {"rate": 60.0}}}
    assert (0, []) == found(snapshot(eu=busy))


def test_a_gap_whose_beginning_is_unknown_is_a_fault() -> None:
    gap = Gap(None, KNOWN.until, "the queue was not there")
    text = "gap since unknown until 2026-11-25T15:00:00Z: the queue was not there; events may have been missed"
    assert (75, [text]) == found(snapshot(gap=str(gap)))


def test_a_gap_that_is_healed_is_only_a_note() -> None:
    cluster = cluster_status(SETTINGS, "eu", snapshot())
    cluster.healed = ["since 09:00 until 10:00: deleted; healed: 3 events"]
    (finding,) = faults(cluster)
    assert ("note", 0, cluster.healed[0]) == (finding.level, finding.exit_code, finding.text)


def test_a_misspelt_type_is_a_note_that_names_the_one_that_is_meant() -> None:
    cluster = cluster_status(SETTINGS, "eu", snapshot())
    cluster.unmatched = [UnmatchedType("product_updatd", "product_updated")]
    (finding,) = faults(cluster)
    assert ("note", 0, 'is "product_updated" meant?') == (finding.level, finding.exit_code, finding.fix)


def test_a_worker_that_can_neither_evict_nor_park_is_named() -> None:
    cluster = cluster_status(SETTINGS, "eu", snapshot())
    cluster.waits_for = ["parking for c2 is impossible"]
    (finding,) = faults(cluster)
    assert (75, "nothing is acknowledged: parking for c2 is impossible") == (finding.exit_code, finding.text)


def test_a_gap_of_several_workers_is_reported_once() -> None:
    assert [str(KNOWN)] == cluster_status(SETTINGS, "eu", snapshot(consumers=3, gap=str(KNOWN))).gaps


def test_clusters_are_those_configured_expected_bound_or_left_behind() -> None:
    settings = Settings(cluster="eu", management=ManagementSettings(expect=["asia"]))
    names = ("invalidator.old", "invalidator.old.dead", "invalidator.eu.parked.c1", "amq.gen-1")
    left: dict[str, Any] = {name: {} for name in names}
    seen = Snapshot(left, [], ["invalidator.us", "somebody-elses", "invalidator-tail.host.1"])
    assert ["asia", "eu", "old", "us"] == known_clusters(settings, seen)


def test_a_cluster_whose_queue_has_a_name_of_its_own_is_found_by_it() -> None:
    settings = Settings(cluster="eu", broker=BrokerSettings(queue="evictions"))
    seen = Snapshot({"evictions": {"messages_ready": 4}}, [], ["evictions"])
    assert ["eu"] == known_clusters(settings, seen)
    assert (4, True) == ((one := cluster_status(settings, "eu", seen)).waiting, one.bound)
