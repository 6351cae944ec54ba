"""Explaining an event or a key: the keys that an event evicts, or the place of a key and the rules that make it.

An event is worked out as a worker does it, with nothing sent anywhere. For a key every node is asked.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from msgspec import Struct

from invalidator.assemble import again_of, rules_of
from invalidator.errors import ConfigurationError, RefusedError, UnconfirmedError, UnreachableError
from invalidator.events.event import EVICT, decode, encode
from invalidator.events.quoting import quoted
from invalidator.events.templates import fields_making
from invalidator.memcached.access import Access
from invalidator.memcached.dial import dial
from invalidator.memcached.ring import ring_of
from invalidator.operate.evict import PlacedKey, addresses, checked_keys, placed
from invalidator.operate.findings import Finding, wrong
from invalidator.settings import Address, Settings, labelled


class TemplateKeys(Struct, frozen=True):
    """One template of a rule, and the keys that it makes."""

    evict: str
    keys: list[PlacedKey]


class SecondEviction(Struct, frozen=True):
    """Keys that `again_after` evicts once more."""

    after_seconds: float
    keys: list[PlacedKey]


class Explanation(Struct, frozen=True):
    """The meaning of an event for one cluster."""

    type: str
    cluster: str
    #: Empty if no rule is on the event's type: a worker acknowledges such an event and evicts nothing.
    rule: list[TemplateKeys]
    #: Label -> address, of every node of the cluster.
    nodes: dict[str, str]
    #: The nearest known type, if no rule is on this one.
    nearest: str | None = None
    again: list[SecondEviction] = []


def explain(settings: Settings, type: str, fields: Mapping[str, Any]) -> Explanation:
    """Return the event's rule, keys and nodes.

    Raises:
        PoisonError: a worker would dead-letter the event, for the reason that the error gives.
        ConfigurationError: the rules cannot work.
    """
    rules = rules_of(settings)
    event = decode(encode(type, fields), type=type, limit=settings.limits.body_bytes)
    rule = [TemplateKeys(text, placed(settings, keys)) for text, keys in rules.explain(event)]
    known = [EVICT, *(rule.on for rule in settings.rule)]
    nearest = None if type in rules.known else next(iter(get_close_matches(type, known, n=1)), None)
    again = [
        SecondEviction(delay_ms / 1000, placed(settings, later.keys(event)))
        for delay_ms, later in again_of(settings).get(type, {}).items()
    ]
    return Explanation(type, settings.cluster, rule, addresses(settings), nearest, again)


class Maker(Struct, frozen=True):
    """A template that can make the key."""

    on: str
    evict: str
    #: The values that the event's fields would have, filters applied.
    fields: dict[str, str]


class Presence(Struct, frozen=True):
    """One node's answer about the key."""

    node: str
    address: str
    #: True if the key is evicted there.
    evicted_here: bool
    #: None if the node did not answer.
    present: bool | None = None
    #: Seconds until it expires; None if it never does or is not there.
    ttl: int | None = None
    #: Seconds since a client last read or wrote it.
    idle: int | None = None
    #: Why the node did not answer.
    reason: str = ""


class Trace(Struct, frozen=True):
    """The templates that can make a key, and the nodes that hold it."""

    key: str
    stored_as: str
    makers: list[Maker]
    nodes: list[Presence]
    #: The node where HashClient puts the key if it is given as bytes; None unless keys are evicted on their owner.
    bytes_node: str | None = None


async def trace(settings: Settings, key: str) -> Trace:
    """Trace a key, as the application names it.

    Raises:
        PoisonError: it cannot be a key.
        ConfigurationError: the rules cannot work.
    """
    (place,) = placed(settings, checked_keys(settings, [("KEY", key)]))
    nodes = await asyncio.gather(
        *(
            _presence(settings, label, address, place.stored_as, evicted_here=label in place.nodes)
            for label, address in addresses(settings).items()
        )
    )
    makers = [
        Maker(rule.on, template, fields)
        for rule in settings.rule
        for template in rule.evict
        if (fields := fields_making(template, key)) is not None
    ]
    return Trace(key, place.stored_as, makers, nodes, _bytes_node(settings, key))


def _bytes_node(settings: Settings, key: str) -> str | None:
    """Return the owner of ``b'key'``: HashClient formats a key that is passed as bytes like this, and hashes that."""
    if settings.memcached.evict_on != "owner" or settings.ring.kind != "rendezvous":
        return None
    return ring_of(settings.ring.kind, list(labelled(settings.ring.nodes))).owner(repr(key.encode()).encode())


def trace_findings(found: Trace) -> Iterator[Finding]:
    """Yield the facts of a trace that explain why the key is stale. Pure."""
    for node in found.nodes:
        if node.present and not node.evicted_here:
            text = f"there on {node.node}, where it is not evicted: clients use another ring, or moved it"
            fix = 'memcached.evict_on = "every-node", or the ring of the clients in [ring] and [ring.previous]'
            if node.node == found.bytes_node:
                text = f"there on {node.node}, where it is not evicted: HashClient puts keys that are bytes there"
                fix = 'pass keys to HashClient as str, or set memcached.evict_on = "every-node"'
            yield wrong("ring", text, fix, meaning=ConfigurationError)
        if node.present is None:
            fix = "invalidator check; the worker evicts the node's parked keys when it answers"
            yield wrong("node", f"{node.node} does not say: {node.reason}", fix, meaning=UnconfirmedError)
    if not found.makers:
        fix = "does memcached.prefix, or a field's filter, differ from the application's?"
        yield Finding("note", "rules", "no rule can make this key: only `invalidator evict` does", fix)


async def _presence(settings: Settings, label: str, address: str, key: str, *, evicted_here: bool) -> Presence:
    memcached = settings.memcached
    try:
        async with asyncio.timeout(memcached.deadline):
            # The item's description by memcached itself (`me`, protocol.txt), which does not count as a read.
            answer = await ask(settings.nodes()[label], Access.of(memcached), b"me %s\r\n" % key.encode())
    except TimeoutError:
        reason = f"no answer within {memcached.deadline:g} s"
    except (UnreachableError, RefusedError) as error:
        reason = str(error)
    else:
        if answer == b"EN\r\n":
            return Presence(label, address, evicted_here, present=False)
        if found := re.fullmatch(rb"ME .* exp=(?P<exp>-?\d+) la=(?P<la>\d+) .*\r\n", answer):
            # memcached counts down from below zero, except for -1: never (items.c, and not as protocol.txt has it).
            ttl = None if found["exp"] == b"-1" else abs(int(found["exp"]))
            return Presence(label, address, evicted_here, True, ttl, int(found["la"]))
        reason = f"it answers {quoted(answer)}"
    return Presence(label, address, evicted_here, reason=reason)


async def ask(address: Address, access: Access, command: bytes, *, end: bytes = b"\r\n") -> bytes:
    """Return a node's answer to a command, up to ``end``. Empty or cut short if the node closes the connection."""
    reader = asyncio.StreamReader()
    transport = await dial(address, access, asyncio.StreamReaderProtocol(reader))
    try:
        transport.write(command)
        return await reader.readuntil(end)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except OSError as error:
        raise UnreachableError(error.strerror or str(error)) from error
    finally:
        transport.abort()
