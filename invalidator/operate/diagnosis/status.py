"""The state of every cluster on a broker: events, workers, dead letters, debts, gaps. Read from the management API.

Its rates may be 5 seconds old; counts are read over AMQP. Without the API only this cluster's queues are inspected, and
the missing figures are reported as unknown. Workers announce why they wait and which types of events they do not know.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from msgspec import Struct, to_builtins

from invalidator.broker.connection import Connection, connected
from invalidator.broker.declare import inspect_queue
from invalidator.broker.gap import GAP_ARGUMENT
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.messages import UnmatchedType
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, RefusedError, UnconfirmedError, UnreachableError
from invalidator.operate.bound import only_the_log
from invalidator.operate.diagnosis.audit_feeds import audit_feed_findings
from invalidator.operate.diagnosis.audit_report import audit_findings
from invalidator.operate.durability import DECLARE
from invalidator.operate.findings import (
    Finding,
    alarm_in_force,
    findings_as_fields,
    missed_events,
    unmatched,
    unnumbered,
    wrong,
)
from invalidator.operate.management import Management, cluster_of_queue, not_asked
from invalidator.operate.tail import worker_states
from invalidator.settings import Settings

#: States in which a queue takes and gives nothing: too few of the broker nodes that hold it are up.
NOT_SERVING = ("minority", "down", "stopped", "crashed")


class ClusterStatus(Struct):
    """The state of one cluster. None marks a figure that is not known."""

    cluster: str
    queue: str
    exists: bool = True
    #: RabbitMQ's name for the queue's state.
    state: str | None = None
    bound: bool | None = None
    #: Consumers of its queue.
    workers: int = 0
    #: Events in the queue.
    waiting: int = 0
    #: Events that workers have received and not settled.
    held: int | None = None
    #: A second.
    published: float | None = None
    settled: float | None = None
    #: True if events waited when the rates were taken, and none was being settled.
    is_stalled: bool = False
    dead: int = 0
    #: Parked debts by node, in messages of up to a thousand keys.
    parked: dict[str, int] = {}
    #: Times in which events may have been missed, until a flush.
    gaps: list[str] = []
    #: Gaps whose events were read from the log and evicted, and replays, until a flush.
    healed: list[str] = []
    #: Gaps whose events are being read from the log.
    healing: list[str] = []
    #: Publishers whose logged events have no numbers, by app_id: their losses before the log cannot be noticed.
    unnumbered: list[str] = []
    #: Types of events that its workers have met and no rule is on.
    unmatched: list[UnmatchedType] = []
    #: Reasons why its workers acknowledge nothing.
    waits_for: list[str] = []


class Status(Struct):
    """The state of every cluster, and the faults."""

    clusters: list[ClusterStatus]
    findings: list[Finding]


def as_fields(found: Status) -> dict[str, Any]:
    """Return a status for JSON, with the debts also under their name of version 0.1, for one more release."""
    clusters = [dict(to_builtins(cluster), owed=cluster.parked) for cluster in found.clusters]
    return {"clusters": clusters, "findings": findings_as_fields(found.findings)}


class Snapshot(NamedTuple):
    """One reading of a vhost through the management API."""

    queues: dict[str, dict[str, Any]]
    consumers: list[dict[str, Any]]
    #: Names of the queues that get a copy of every event.
    bound: list[str]


async def status(settings: Settings) -> Status:
    """Return the state of every cluster that uses this configuration's broker.

    Raises:
        UnreachableError, RefusedError: neither the management API nor the broker itself answers.
    """
    management = Management(settings)
    try:
        alarms = await management.alarms()
        queues = {str(queue["name"]): queue for queue in await management.queues()}
        seen = Snapshot(queues, await management.consumers(), await management.bound_queues(settings.broker.exchange))
    except InvalidatorError as error:
        return await _over_amqp(settings, error)
    clusters = [cluster_status(settings, cluster, seen) for cluster in known_clusters(settings, seen)]
    with suppress(InvalidatorError):  # the figures of the management API are old, but they are there
        async with connected(settings, "status") as connection:
            await _refresh(clusters, seen, connection)
            for cluster in clusters:
                if f"{cluster.queue}.gaps" in seen.queues:
                    await _add_gaps(settings, cluster, connection)
    await _add_states(settings, clusters)
    findings = [alarm_in_force(alarm) for alarm in alarms]
    findings += filter(None, [only_the_log(Topology.of(settings), seen.bound)])
    audit = await asyncio.to_thread(lambda: [*audit_feed_findings(settings), *audit_findings(settings)])
    return Status(clusters, [*findings, *(finding for each in clusters for finding in faults(each)), *audit])


def known_clusters(settings: Settings, seen: Snapshot) -> list[str]:
    """Return every cluster that is configured, expected or bound, or has a queue with a dead-letter queue. Pure."""
    with_dead = (name for name in seen.queues if f"{name}.dead" in seen.queues)
    named = filter(None, (cluster_of_queue(settings, queue) for queue in (*seen.bound, *with_dead)))
    return sorted({settings.cluster, *settings.management.expect, *named})


def cluster_status(settings: Settings, cluster: str, seen: Snapshot) -> ClusterStatus:
    """Return the state of one cluster. Pure."""
    topology = Topology.of(settings)
    name = topology.queue if cluster == settings.cluster else f"{topology.prefix}.{cluster}"
    if (queue := seen.queues.get(name)) is None:
        return ClusterStatus(cluster, name, exists=False)
    consumers = [consumer for consumer in seen.consumers if consumer["queue"]["name"] == name]
    gaps = {dict(consumer.get("arguments") or {}).get(GAP_ARGUMENT) for consumer in consumers} - {None}
    parked = f"{name}.parked."
    debts = {other: _messages(seen, other) for other in seen.queues if other.startswith(parked)}
    return ClusterStatus(
        cluster,
        name,
        state=str(queue.get("state", "running")),
        bound=name in seen.bound,
        workers=len(consumers),
        waiting=_count(queue, "messages_ready"),
        held=_count(queue, "messages_unacknowledged"),
        published=_rate(queue, "publish"),
        settled=_rate(queue, "ack"),
        is_stalled=_rate(queue, "ack") == 0 and _count(queue, "messages_ready", "messages_unacknowledged") > 0,
        dead=_messages(seen, f"{name}.dead"),
        parked={other.removeprefix(parked): count for other, count in debts.items() if count},
        gaps=sorted(map(str, gaps)),
    )


def faults(cluster: ClusterStatus) -> Iterator[Finding]:
    """Yield the faults of a cluster with their fixes, the gravest first, then the notes. Pure."""
    if not cluster.exists:
        fix = f"{DECLARE}, or start a worker"
        text = f"there is no queue {cluster.queue}: no event is kept"
        yield wrong(cluster.cluster, text, fix, meaning=UnreachableError)
        return
    yield from _faults_of_the_queue(cluster)
    yield from _unfinished_work(cluster)
    yield from _gaps(cluster)
    for type in cluster.unmatched:
        yield unmatched(cluster.cluster, type)
    if cluster.unnumbered:
        yield unnumbered(cluster.cluster, cluster.unnumbered)


def _faults_of_the_queue(cluster: ClusterStatus) -> Iterator[Finding]:
    name, queue = cluster.cluster, cluster.queue
    if cluster.state in NOT_SERVING:
        fix = f"start the broker nodes that hold it: rabbitmq-queues quorum_status {queue}"
        yield wrong(name, f"{queue} is {cluster.state}: nothing goes in or out", fix, meaning=UnreachableError)
    if cluster.bound is False:
        yield wrong(name, f"{queue} is not bound: no event arrives", DECLARE, meaning=UnreachableError)
    unsettled = cluster.waiting + (cluster.held or 0)
    if not cluster.workers:
        fix = f"systemctl start invalidator-worker@{name}, or: invalidator worker"
        yield wrong(name, f"no worker consumes {queue}", fix, meaning=UnreachableError)
    elif unsettled and cluster.is_stalled:
        fix = f"systemctl status invalidator-worker@{name}: does it hang, or say what it waits for?"
        yield wrong(name, f"no event is being settled, and {unsettled} wait", fix, meaning=UnconfirmedError)


def _unfinished_work(cluster: ClusterStatus) -> Iterator[Finding]:
    name = cluster.cluster
    for reason in cluster.waits_for:
        fix = "make room in the parking queue, or start the node; until then the keys of the other nodes wait too"
        yield wrong(name, f"nothing is acknowledged: {reason}", fix, meaning=UnconfirmedError)
    for label, debts in cluster.parked.items():
        fix = f"a worker evicts the keys parked for {label} once it answers; keep it out of use until then"
        yield wrong(name, f"{label} did not answer, parked debts: {debts}", fix, meaning=UnconfirmedError)
    if cluster.dead:
        fix = f"invalidator dead list, with the configuration of {name}, says why"
        yield wrong(name, f"dead letters: {cluster.dead}", fix, meaning=UnconfirmedError)


def _gaps(cluster: ClusterStatus) -> Iterator[Finding]:
    for gap in cluster.gaps:
        yield missed_events(cluster.cluster, gap)
    for text in (*cluster.healing, *cluster.healed):
        yield Finding("note", cluster.cluster, text)


async def _over_amqp(settings: Settings, error: InvalidatorError) -> Status:
    """Return the state of this cluster alone, as far as AMQP gives it."""
    topology = Topology.of(settings)
    async with connected(settings, "status") as connection:
        found = await inspect_queue(connection, topology.queue)
        cluster = ClusterStatus(settings.cluster, topology.queue, exists=found is not None)
        cluster.waiting, cluster.workers = found or (0, 0)
        cluster.dead, _ = await inspect_queue(connection, topology.dead) or (0, 0)
        debts = [
            (label, await inspect_queue(connection, topology.parked(label)) or (0, 0)) for label in topology.labels
        ]
        cluster.parked = {label: waiting for label, (waiting, _) in debts if waiting}
        await _add_gaps(settings, cluster, connection)
    await _add_states(settings, [cluster])
    text = f"rates, bindings, alarms and other clusters are not known: {error}"
    unknown = not_asked("broker", text, settings, error)
    return Status([cluster], [*faults(cluster), unknown])


async def _refresh(clusters: Iterable[ClusterStatus], seen: Snapshot, connection: Connection) -> None:
    """Replace the counts, which may be 5 seconds old in the management API, by those of now."""

    async def counted(queue: str) -> int:
        ready, _ = await inspect_queue(connection, queue) or (0, 0)
        return ready + int(seen.queues[queue].get("messages_unacknowledged", 0))

    for cluster in clusters:
        if found := await inspect_queue(connection, cluster.queue):
            cluster.waiting, cluster.workers = found
        if (dead := f"{cluster.queue}.dead") in seen.queues:
            cluster.dead = await counted(dead)
        prefix = f"{cluster.queue}.parked."
        debts = {queue: await counted(queue) for queue in seen.queues if queue.startswith(prefix)}
        cluster.parked = {queue.removeprefix(prefix): count for queue, count in debts.items() if count}


async def _add_gaps(settings: Settings, cluster: ClusterStatus, connection: Connection) -> None:
    """Replace the gaps that workers report by those that are remembered, if this user may read them."""
    topology = replace(Topology.of(settings), cluster=cluster.cluster, queue=cluster.queue)
    with suppress(RefusedError):
        gaps = await remembered_gaps(connection, topology)
        cluster.gaps = [gap.story for gap in gaps if gap.may_have_lost]
        cluster.healed = [gap.story for gap in gaps if not gap.may_have_lost]


async def _add_states(settings: Settings, clusters: Iterable[ClusterStatus]) -> None:
    """Add the states that workers announce, if this user may receive announcements."""
    by_name = {cluster.cluster: cluster for cluster in clusters}
    try:
        states = await worker_states(settings, {name: cluster.workers for name, cluster in by_name.items()})
    except InvalidatorError:
        return
    for name, workers in states.items():
        types = {unmatched.type: unmatched for state in workers.values() for unmatched in state.unmatched}
        by_name[name].unmatched = list(types.values())
        by_name[name].healing = sorted({state.healing for state in workers.values() if state.healing})
        by_name[name].unnumbered = sorted({app for state in workers.values() for app in state.unnumbered})
        by_name[name].waits_for = sorted({state.waits_for for state in workers.values() if state.waits_for})


def _messages(seen: Snapshot, queue: str) -> int:
    return int(seen.queues.get(queue, {}).get("messages", 0))


def _count(queue: Mapping[str, Any], *names: str) -> int:
    return sum(int(queue.get(name, 0)) for name in names)


def _rate(queue: Mapping[str, Any], of: str) -> float:
    stats = queue.get("message_stats") or {}
    return round(float((stats.get(f"{of}_details") or {}).get("rate", 0.0)), 1)
