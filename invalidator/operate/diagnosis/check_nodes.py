"""Checking the nodes: a fence there and back to each, and the machines to which the running workers are connected."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_address
from time import perf_counter

from invalidator.broker.messages import WorkerState
from invalidator.errors import InvalidatorError, UnreachableError
from invalidator.memcached.access import Access
from invalidator.memcached.eviction import Evicted
from invalidator.memcached.failure import DialError, Failure
from invalidator.memcached.host import LOOKUP_SECONDS
from invalidator.memcached.lookup import lookup
from invalidator.memcached.node import Node
from invalidator.memcached.wire import bare_fence
from invalidator.operate.evict import addresses
from invalidator.operate.explain import ask
from invalidator.operate.findings import Finding, ok, wrong
from invalidator.settings import Address, Settings

NODE_FIXES = {
    Failure.SEVERAL_MACHINES: "write each address as a node of its own into ring.nodes",
    Failure.TLS: "correct what is named",
    Failure.LOGIN_REQUIRED: "set memcached.user and memcached.password_file",
    Failure.LOGIN_REFUSED: "correct memcached.user and memcached.password_file, or the file of memcached -Y",
    Failure.FULL: "find who holds them, or raise its limit (memcached -c)",
    Failure.CLOSED: "read its log; for one that speaks TLS (memcached -Z), memcached.tls must be true",
    # Something answers, so it is neither down nor absent.
    Failure.PROTOCOL: "nothing confirms a delete there: its keys stay parked until ring.nodes names a node that can",
}
NODE_IS_DOWN = "start it, or correct its address in ring.nodes"


async def check_nodes(settings: Settings) -> list[Finding]:
    """Return a finding for each node."""
    return await asyncio.gather(*(_node(settings, label, address) for label, address in addresses(settings).items()))


async def _node(settings: Settings, label: str, address: str) -> Finding:
    """Send a fence and wait for its answer, as every eviction does."""
    memcached = settings.memcached
    node = Node(label, settings.nodes()[label], access=lambda: Access.of(memcached), deadline=memcached.deadline)
    shown = label if label == address else f"{label} ({address})"
    started = perf_counter()
    try:
        answer = await node.evict([bare_fence()])
    finally:
        milliseconds = (perf_counter() - started) * 1000
        await node.close()
    if isinstance(answer, Evicted):
        text = f"{shown}: answers a fence in {milliseconds:.1f} ms"
        if await _has_no_cas(settings, label):
            text += ", but runs without CAS (memcached -C): LookAsideCache stores nothing there"
            return Finding("note", "node", text, "start it without -C if applications read through LookAsideCache")
        return ok("node", text)
    fix = NODE_FIXES.get(answer.failure, NODE_IS_DOWN)
    return wrong("node", f"{shown}: {answer.reason}", fix, meaning=UnreachableError)


async def _has_no_cas(settings: Settings, label: str) -> bool:
    """Return True if the node says so. Something else that speaks memcached's protocol may not know the question."""
    memcached = settings.memcached
    with contextlib.suppress(InvalidatorError, TimeoutError):
        async with asyncio.timeout(memcached.deadline):
            command, end = b"stats settings\r\n", b"\r\n"
            address, access = settings.nodes()[label], Access.of(memcached)
            if (await ask(address, access, command, end=end)).startswith(b"STAT "):
                return b"STAT cas_enabled no\r\n" in await ask(address, access, command, end=b"END\r\n")
    return False


async def elsewhere(settings: Settings, workers: Mapping[str, WorkerState]) -> AsyncIterator[Finding]:
    """Yield each worker's connection to another machine than the one that this configuration names.

    A worker that has evicted nothing yet has no connection, and one on a UNIX socket has no address to compare.
    """
    for label, address in settings.nodes().items():
        connected = {name: peer for name, state in workers.items() if (peer := state.connected.get(label))}
        if not connected or not (here := await _machine(address)):
            continue
        for name, peer in connected.items():
            if _is_another(peer, here):
                text = f"{name} evicts on {peer} for {label}, but here it is {' and '.join(here)}"
                fix = f"check again after {LOOKUP_SECONDS:g} s; if it stays, compare what both machines resolve it to"
                yield wrong("node", text, fix, meaning=UnreachableError)


async def _machine(address: Address) -> list[str]:
    """Return the addresses of a node's machine, or none if its name has no single one, which `check_nodes` reports."""
    if address.path:
        return []
    try:
        return await lookup(address)
    except DialError:
        return []


def _is_another(peer: str, here: list[str]) -> bool:
    """Return True if a worker's node is not the one here. A loopback address is right on the node's own machine."""
    if peer in here:
        return False
    return all(ip_address(ip).is_loopback == ip_address(peer).is_loopback for ip in here)
