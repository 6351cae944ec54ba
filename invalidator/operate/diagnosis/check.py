"""Checking that a worker with these settings can work, by trying each thing where trying it changes nothing.

configuration ─> broker ─> alarms ─> permissions ─> topology ─> queues ─> running workers ─> gaps
             └─> nodes: a fence there and back each
             └─> outbox, followed database, account of the auditor
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from msgspec.structs import replace

from invalidator.assemble import rules_of
from invalidator.broker.connection import Connection, connected, server_property
from invalidator.broker.declare import inspect_queue
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.messages import WorkerState
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError, UnconfirmedError, UnreachableError
from invalidator.memcached.holders import Holders
from invalidator.operate.bound import only_the_log
from invalidator.operate.dead_letters import Filter, Group, dead_letters
from invalidator.operate.diagnosis.audit_feeds import audit_feed_findings
from invalidator.operate.diagnosis.audit_report import audit_findings
from invalidator.operate.diagnosis.check_nodes import check_nodes
from invalidator.operate.diagnosis.check_workers import announced_states, check_workers
from invalidator.operate.diagnosis.permissions import may_publish, needed, refused
from invalidator.operate.findings import Finding, alarm_in_force, failed, missed_events, ok, wrong
from invalidator.operate.management import Management, vhost_of
from invalidator.operate.topology import verify
from invalidator.settings import BrokerUrl, Settings

#: Dead letters read, to name their reasons.
READ_DEAD_LETTERS = 100


async def check(settings: Settings, *, source: str) -> list[Finding]:
    """Return all findings, in the order in which a worker needs them. ``source`` says where the settings came from."""
    nodes, waiting = asyncio.create_task(check_nodes(settings)), asyncio.create_task(_outbox(settings))
    followed = asyncio.create_task(_follow(settings))
    findings = [_configuration(settings, source), *[finding async for finding in _broker(settings)]]
    audit = asyncio.to_thread(lambda: [*audit_feed_findings(settings), *audit_findings(settings)])
    return [*findings, *await nodes, *await waiting, *await followed, *await audit]


def check_offline(settings: Settings, *, source: str) -> list[Finding]:
    """Return the findings about the configuration alone, without any network."""
    return [_configuration(settings, source)]


def _configuration(settings: Settings, source: str) -> Finding:
    try:
        rules_of(settings)
        Holders.of(settings)
    except ConfigurationError as error:
        return failed("configuration", error)
    text = f"{source}: cluster {settings.cluster}; nodes: {len(settings.nodes())}; rules: {len(settings.rule)}"
    if not settings.rule:
        fix = "say in [[rule]] what an event means for the cache"
        return Finding("note", "configuration", f"{text}, so only cache_evict events evict anything", fix)
    return ok("configuration", text)


async def _broker(settings: Settings) -> AsyncIterator[Finding]:
    try:
        async with connected(settings, "check") as connection:
            yield _version(settings, connection)
            for part in (_alarms, _permissions, _topology, _queues, _workers_and_gaps):
                async for finding in part(settings, connection):
                    yield finding
    except InvalidatorError as error:
        yield failed("broker", error)


def _version(settings: Settings, connection: Connection) -> Finding:
    url, version = BrokerUrl.parse(settings.broker.url), server_property(connection, "version")
    return ok("broker", f"{url.host}:{url.port}: RabbitMQ {version}, user {url.user}, vhost {url.vhost}")


async def _alarms(settings: Settings, _: Connection) -> AsyncIterator[Finding]:
    try:
        alarms = await Management(settings).alarms()
    except InvalidatorError:
        return  # `_topology` reports why the management API cannot be used
    for alarm in alarms:
        yield alarm_in_force(alarm)


async def _permissions(settings: Settings, connection: Connection) -> AsyncIterator[Finding]:
    topology, declares = Topology.of(settings), settings.broker.declare == "active"
    user = BrokerUrl.parse(settings.broker.url).user
    try:
        async with connected(settings, "check") as publishing:
            missing = await refused(connection, publishing, topology, declares=declares)
            publishes = await may_publish(publishing, topology.exchange)
    except UnreachableError as error:
        yield Finding("unverified", "permissions", f"not verified: {error}")
        return
    if missing:
        command = needed(topology, declares=declares).command(user, vhost_of(settings))
        yield wrong("permissions", f"{user} may not: {', '.join(missing)}", command, meaning=RefusedError)
    else:
        also = "" if publishes else " (but not publish events, which a worker does not)"
        yield ok("permissions", f"{user} may do all that a worker does{also}")


async def _topology(settings: Settings, connection: Connection) -> AsyncIterator[Finding]:
    """Verify the topology. A management API that is not configured is not missed, nor is one that refuses this user."""
    for finding in await verify(settings, connection):
        is_missed = finding.level != "unverified" or settings.management.url
        yield finding if is_missed else replace(finding, exit_code=0)
    topology = Topology.of(settings)
    with contextlib.suppress(InvalidatorError):  # without the API `verify` has only found out if queues exist
        if fault := only_the_log(topology, await Management(settings).bound_queues(topology.exchange)):
            yield fault


async def _queues(settings: Settings, connection: Connection) -> AsyncIterator[Finding]:
    """Count the messages in the queues that exist; `verify` finds those that do not."""
    topology = Topology.of(settings)
    if found := await inspect_queue(connection, topology.queue):
        waiting, consumers = found
        text = f"consuming {topology.queue}: {consumers}; events waiting: {waiting}"
        fix = f"systemctl start invalidator-worker@{settings.cluster}, or: invalidator worker"
        yield ok("workers", text) if consumers else wrong("workers", text, fix, meaning=UnreachableError)
    if found := await inspect_queue(connection, topology.dead):
        yield await _dead(settings, topology.dead, found[0])
    for label in topology.labels:
        if found := await inspect_queue(connection, topology.parked(label)):
            fix = f"a worker evicts the keys parked for {label} once it answers; keep it out of use until then"
            yield _waiting("debts", topology.parked(label), found[0], fix)


async def _workers_and_gaps(settings: Settings, connection: Connection) -> AsyncIterator[Finding]:
    """Check the running workers. A gap that one of them heals is not in the queue of gaps: only that worker tells."""
    stated: dict[str, WorkerState] = {}
    _, consumers = await inspect_queue(connection, Topology.of(settings).queue) or (0, 0)
    if consumers:
        stated = await announced_states(settings, consumers)
        async for finding in check_workers(settings, stated, consumers):
            yield finding
    async for finding in _gaps(settings, connection, sorted({state.healing for state in stated.values()} - {""})):
        yield finding


async def _gaps(settings: Settings, connection: Connection, healing: Sequence[str]) -> AsyncIterator[Finding]:
    for text in healing:
        yield Finding("note", "gaps", text)
    try:
        gaps = await remembered_gaps(connection, Topology.of(settings))
    except RefusedError as error:
        yield Finding("unverified", "gaps", f"not verified: {error}")
        return
    lost = [gap for gap in gaps if gap.may_have_lost]
    for gap in lost:
        yield missed_events("gaps", gap.story)
    if not (lost or healing):
        healed = f"; healed from the log: {len(gaps)}" if gaps else ""
        yield ok("gaps", f"none since the last flush{healed}")


async def _dead(settings: Settings, queue: str, count: int) -> Finding:
    """Count the dead letters, and name the causes of the oldest if this user may read them."""
    fix = "invalidator dead show; fix the publisher or the rule, then: invalidator dead replay"
    groups: list[Group] = []
    if count:
        with contextlib.suppress(InvalidatorError):
            async with dead_letters(settings) as found:
                groups = await found.grouped(Filter(limit=READ_DEAD_LETTERS), advance=lambda: None)
    finding = _waiting("dead letters", queue, count, fix)
    if not groups:
        return finding
    of = ", ".join(f"{group.count} {group.reason}" for group in groups)
    return replace(finding, text=f"{finding.text}; the oldest: {of} ({groups[0].detail})")


def _waiting(what: str, queue: str, count: int, fix: str) -> Finding:
    if count:
        return wrong(what, f"{count} in {queue}", fix, meaning=UnconfirmedError)
    return ok(what, f"none in {queue}")


async def _outbox(settings: Settings) -> list[Finding]:
    if settings.outbox.url is None:
        return []
    try:
        from invalidator.operate.diagnosis.outbox_backlog import check_outbox  # noqa: PLC0415  SQLAlchemy is an extra

        return [await asyncio.to_thread(check_outbox, settings.outbox)]
    except ModuleNotFoundError as error:
        return [wrong("outbox", str(error), "pip install 'invalidator[outbox]'", meaning=ConfigurationError)]
    except ConfigurationError as error:
        return [failed("outbox", error)]


async def _follow(settings: Settings) -> list[Finding]:
    if settings.follow.url is None:
        return []
    try:
        from invalidator.operate.diagnosis.followed_database import check_follow  # noqa: PLC0415  psycopg is an extra
    except ModuleNotFoundError as error:
        return [wrong("follow", str(error), "pip install 'invalidator[outbox]'", meaning=ConfigurationError)]
    return await check_follow(settings)
