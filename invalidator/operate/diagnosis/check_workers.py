"""Checking the running workers: have they the ring and the rules of this configuration, and which events do they know?

They say so themselves in their announcements, or else the management API describes their connections.
"""

from collections.abc import AsyncIterator, Iterator, Mapping

from invalidator.assemble import client_properties
from invalidator.broker.consume.consumer import ROLE
from invalidator.broker.messages import WorkerState
from invalidator.errors import ConfigurationError, InvalidatorError, UnreachableError
from invalidator.operate.diagnosis.check_nodes import elsewhere
from invalidator.operate.findings import Finding, ok, unmatched, wrong
from invalidator.operate.management import Management
from invalidator.operate.tail import worker_states
from invalidator.settings import Settings

#: Client property of a worker -> the part of the configuration that it covers, and the meaning of a difference.
DIGESTS = {
    "ring_digest": ("ring", "evicts on other nodes, or by another ring,"),
    "configuration_digest": ("rules", "has other rules, limits, prefix or evict_on"),
}


async def check_workers(
    settings: Settings, stated: Mapping[str, WorkerState], consumers: int
) -> AsyncIterator[Finding]:
    """Compare each running worker's ring and rules with this configuration, and name the types that no rule is on.

    ``stated`` holds the states that workers have announced, ``consumers`` is the number of those that run.
    """
    workers = stated
    if len(stated) < consumers and len(described := await _described(settings)) > len(stated):
        workers = described
    for finding in _differences(settings, workers):
        yield finding
    async for finding in elsewhere(settings, stated):
        yield finding
    if len(workers) < consumers:
        text = f"ring and rules were compared with {len(workers)} of {consumers} running workers"
        fix = "let this user declare a temporary queue (invalidator tail needs one too), or use the management API"
        yield Finding("unverified", "workers", text, fix, UnreachableError.exit_code)
    for type in {type for state in stated.values() for type in state.unmatched}:
        yield unmatched("rules", type)


async def announced_states(settings: Settings, consumers: int) -> dict[str, WorkerState]:
    """Return the states that the cluster's workers announce, or none if this user may not receive announcements."""
    try:
        states = await worker_states(settings, {settings.cluster: consumers})
    except InvalidatorError:
        return {}
    return {f"worker {name}": state for name, state in states[settings.cluster].items()}


async def _described(settings: Settings) -> dict[str, WorkerState]:
    """Return the digests of the cluster's workers by the management API, or none if it cannot be used."""
    try:
        clients = await Management(settings).connections()
    except InvalidatorError:
        return {}
    # Each worker has several connections, and one that consumes.
    consuming = [client for client in clients if {"cluster": settings.cluster, **ROLE}.items() <= client.items()]
    return {
        str(client.get("connection_name")): WorkerState(str(client["ring_digest"]), str(client["configuration_digest"]))
        for client in consuming
        if client.keys() >= DIGESTS.keys()
    }


def _differences(settings: Settings, workers: Mapping[str, WorkerState]) -> Iterator[Finding]:
    ours = client_properties(settings)
    for digest, (what, differs) in DIGESTS.items():
        strangers = [name for name, state in workers.items() if getattr(state, digest) != ours[digest]]
        for name in strangers:
            text = f"{name} {differs} than this configuration says"
            fix = "restart it with this configuration, or correct this one: workers of a cluster share one"
            yield wrong(what, text, fix, meaning=ConfigurationError)
        if workers and not strangers:
            yield ok(what, f"the same in {len(workers)} running and here")
