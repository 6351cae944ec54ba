"""The state of every cluster on a broker: events, workers, dead letters, debts, gaps. Read from the management API.

Its counts may be 5 seconds old. Without the API only this cluster's queues are inspected, over AMQP, and the missing
figures are reported as unknown.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, to_builtins

from invalidator.broker.connection import connected
from invalidator.broker.declare import inspect_queue
from invalidator.broker.gap import GAP_ARGUMENT, Gap
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, UnconfirmedError, UnreachableError
from invalidator.operate.durability import DECLARE
from invalidator.operate.findings import Finding, alarm_in_force, findings_as_fields, wrong
from invalidator.operate.management import Management, cluster_of_queue
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
    dead: int = 0
    #: Parked debts by node, in messages of up to a thousand keys.
    parked: dict[str, int] = {}
    #: Gaps that its workers report, for as long as they run.
    gaps: list[str] = []


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
    findings = [alarm_in_force(alarm) for alarm in alarms]
    return Status(clusters, [*findings, *(finding for each in clusters for finding in faults(each))])


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
        waiting=int(queue.get("messages_ready", 0)),
        held=int(queue.get("messages_unacknowledged", 0)),
        published=_rate(queue, "publish"),
        settled=_rate(queue, "ack"),
        dead=_messages(seen, f"{name}.dead"),
        parked={other.removeprefix(parked): count for other, count in debts.items() if count},
        gaps=sorted(map(str, gaps)),
    )


def faults(cluster: ClusterStatus) -> Iterator[Finding]:
    """Yield the faults of a cluster with their fixes, the gravest first. Pure."""
    name, queue = cluster.cluster, cluster.queue
    if not cluster.exists:
        fix = f"{DECLARE}, or start a worker"
        yield wrong(name, f"there is no queue {queue}: no event is kept", fix, meaning=UnreachableError)
        return
    if cluster.state in NOT_SERVING:
        fix = f"start the broker nodes that hold it: rabbitmq-queues quorum_status {queue}"
        yield wrong(name, f"{queue} is {cluster.state}: nothing goes in or out", fix, meaning=UnreachableError)
    if cluster.bound is False:
        yield wrong(name, f"{queue} is not bound: no event arrives", DECLARE, meaning=UnreachableError)
    unsettled = cluster.waiting + (cluster.held or 0)
    if not cluster.workers:
        fix = f"systemctl start invalidator-worker@{name}, or: invalidator worker"
        yield wrong(name, f"no worker consumes {queue}", fix, meaning=UnreachableError)
    elif unsettled and cluster.settled == 0:
        fix = f"systemctl status invalidator-worker@{name}: does it hang, or say what it waits for?"
        yield wrong(name, f"no event is being settled, and {unsettled} wait", fix, meaning=UnconfirmedError)
    for label, debts in cluster.parked.items():
        fix = f"a worker evicts the keys parked for {label} once it answers; keep it out of use until then"
        yield wrong(name, f"{label} did not answer, parked debts: {debts}", fix, meaning=UnconfirmedError)
    if cluster.dead:
        fix = f"invalidator dead list, with the configuration of {name}, says why"
        yield wrong(name, f"dead letters: {cluster.dead}", fix, meaning=UnconfirmedError)
    for gap in cluster.gaps:
        fix = 'run "invalidator flush", then restart the workers: each reports its last gap until it restarts'
        if (read := Gap.read(gap)) and read.since is None:
            yield Finding("note", name, f"gap {gap}", f"if the nodes were in use before: {fix}")
        else:
            yield wrong(name, f"gap {gap}; events may have been missed", fix, meaning=UnconfirmedError)


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
    text = f"rates, bindings, gaps, alarms and other clusters are not known: {error}"
    unknown = Finding("unverified", "broker", text, exit_code=error.exit_code)
    return Status([cluster], [*faults(cluster), unknown])


def _messages(seen: Snapshot, queue: str) -> int:
    return int(seen.queues.get(queue, {}).get("messages", 0))


def _rate(queue: Mapping[str, Any], of: str) -> float:
    stats = queue.get("message_stats") or {}
    return round(float((stats.get(f"{of}_details") or {}).get("rate", 0.0)), 1)
