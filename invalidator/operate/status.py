"""How every cluster stands: what waits, who works, what is dead, owed or missed. Read from the management API.

What it counts may be 5 seconds old there. Where the API cannot be asked, this configuration's own queues are looked at
through AMQP, and it is said what is not known.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from invalidator.broker.declare import inspect_queue
from invalidator.broker.gap import GAP_ARGUMENT, Gap
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, UnconfirmedError, UnreachableError
from invalidator.operate.durability import DECLARE
from invalidator.operate.findings import Finding, alarm_in_force, wrong
from invalidator.operate.management import Management, cluster_of_queue
from invalidator.operate.topology import connected
from invalidator.settings import Settings

#: States in which a queue takes and gives nothing: too few of the broker nodes that hold it are up.
NOT_SERVING = ("minority", "down", "stopped", "crashed")


class ClusterStatus(Struct):
    """One cluster; what is None could not be asked."""

    cluster: str
    queue: str
    exists: bool = True
    #: RabbitMQ's word for it.
    state: str | None = None
    bound: bool | None = None
    #: Consumers of its queue.
    workers: int = 0
    #: Events in the queue; and of those that workers have been handed.
    waiting: int = 0
    held: int | None = None
    #: A second.
    published: float | None = None
    settled: float | None = None
    dead: int = 0
    #: Debts by node, in messages of up to a thousand keys.
    owed: dict[str, int] = {}
    #: What its workers report as gaps, for as long as they run.
    gaps: list[str] = []


class Status(Struct):
    """Every cluster, and what is wrong."""

    clusters: list[ClusterStatus]
    findings: list[Finding]


class Told(NamedTuple):
    """What the management API tells of a vhost."""

    queues: dict[str, dict[str, Any]]
    consumers: list[dict[str, Any]]
    #: Names of the queues that get a copy of every event.
    bound: list[str]


async def status(settings: Settings) -> Status:
    """How every cluster stands that this configuration's broker knows of.

    Raises:
        UnreachableError, RefusedError: neither the management API nor the broker itself can be asked.
    """
    management = Management(settings)
    try:
        alarms = await management.alarms()
        queues = {str(queue["name"]): queue for queue in await management.queues()}
        told = Told(queues, await management.consumers(), await management.bound_queues(settings.broker.exchange))
    except InvalidatorError as error:
        return await _looked_at(settings, error)
    clusters = [described(settings, cluster, told) for cluster in known_clusters(settings, told)]
    findings = [alarm_in_force(alarm) for alarm in alarms]
    return Status(clusters, [*findings, *(finding for each in clusters for finding in judged(each))])


def known_clusters(settings: Settings, told: Told) -> list[str]:
    """Every cluster that is configured, expected or bound, or has a queue with a dead-letter queue; pure."""
    with_dead = (name for name in told.queues if f"{name}.dead" in told.queues)
    named = filter(None, (cluster_of_queue(settings, queue) for queue in (*told.bound, *with_dead)))
    return sorted({settings.cluster, *settings.management.expect, *named})


def described(settings: Settings, cluster: str, told: Told) -> ClusterStatus:
    """One cluster; pure."""
    topology = Topology.of(settings)
    name = topology.queue if cluster == settings.cluster else f"{topology.prefix}.{cluster}"
    if (queue := told.queues.get(name)) is None:
        return ClusterStatus(cluster, name, exists=False)
    consumers = [consumer for consumer in told.consumers if consumer["queue"]["name"] == name]
    gaps = {dict(consumer.get("arguments") or {}).get(GAP_ARGUMENT) for consumer in consumers} - {None}
    parked = f"{name}.parked."
    debts = {other: _messages(told, other) for other in told.queues if other.startswith(parked)}
    return ClusterStatus(
        cluster,
        name,
        state=str(queue.get("state", "running")),
        bound=name in told.bound,
        workers=len(consumers),
        waiting=int(queue.get("messages_ready", 0)),
        held=int(queue.get("messages_unacknowledged", 0)),
        published=_rate(queue, "publish"),
        settled=_rate(queue, "ack"),
        dead=_messages(told, f"{name}.dead"),
        owed={other.removeprefix(parked): count for other, count in debts.items() if count},
        gaps=sorted(map(str, gaps)),
    )


def judged(cluster: ClusterStatus) -> Iterator[Finding]:
    """What is wrong with a cluster, and the fix, the gravest first; pure."""
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
    undone = cluster.waiting + (cluster.held or 0)
    if not cluster.workers:
        fix = f"systemctl start invalidator-worker@{name}, or: invalidator worker"
        yield wrong(name, f"no worker consumes {queue}", fix, meaning=UnreachableError)
    elif undone and cluster.settled == 0:
        fix = f"systemctl status invalidator-worker@{name}: does it hang, or say what it waits for?"
        yield wrong(name, f"none of the events that wait is being settled: {undone}", fix, meaning=UnconfirmedError)
    for label, debts in cluster.owed.items():
        fix = f"a worker evicts what {label} is owed once it answers; keep it out of use until then"
        yield wrong(name, f"{label} did not answer and is owed keys, debts: {debts}", fix, meaning=UnconfirmedError)
    if cluster.dead:
        fix = f"invalidator dead list, in the configuration of {name}, says why"
        yield wrong(name, f"dead letters: {cluster.dead}", fix, meaning=UnconfirmedError)
    for gap in cluster.gaps:
        fix = "invalidator flush, then restart the workers: they tell of it as long as they run"
        if (read := Gap.read(gap)) and read.since is None:
            yield Finding("note", name, f"gap {gap}", f"if the nodes were in use before: {fix}")
        else:
            yield wrong(name, f"gap {gap}; events may have been missed", fix, meaning=UnconfirmedError)


async def _looked_at(settings: Settings, error: InvalidatorError) -> Status:
    """This cluster alone, through AMQP."""
    topology = Topology.of(settings)
    async with connected(settings, "status") as connection:
        found = await inspect_queue(connection, topology.queue)
        told = ClusterStatus(settings.cluster, topology.queue, exists=found is not None)
        told.waiting, told.workers = found or (0, 0)
        told.dead, _ = await inspect_queue(connection, topology.dead) or (0, 0)
        debts = [
            (label, await inspect_queue(connection, topology.parked(label)) or (0, 0)) for label in topology.labels
        ]
        told.owed = {label: waiting for label, (waiting, _) in debts if waiting}
    text = f"rates, bindings, gaps, alarms and other clusters are not known: {error}"
    unknown = Finding("unverified", "broker", text, exit_code=error.exit_code)
    return Status([told], [*judged(told), unknown])


def _messages(told: Told, queue: str) -> int:
    return int(told.queues.get(queue, {}).get("messages", 0))


def _rate(queue: Mapping[str, Any], of: str) -> float:
    stats = queue.get("message_stats") or {}
    return round(float((stats.get(f"{of}_details") or {}).get("rate", 0.0)), 1)
