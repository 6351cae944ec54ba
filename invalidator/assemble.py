"""Assembles parts from the settings: rules, and the properties that connections carry."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from invalidator.events.rules import Rules
from invalidator.events.types import TypeSource
from invalidator.settings import EventSettings, RuleSettings, Settings


def rules_of(settings: Settings) -> Rules:
    """Compile the rules."""
    return _compiled(settings, settings.rule)


def type_source_of(settings: Settings) -> TypeSource | None:
    """Return the places that name an event's type, or None for the usual ones."""
    events = settings.events
    if not (events.type_header or events.type_field):
        return None
    return TypeSource(header=events.type_header, field=events.type_field)


def again_of(settings: Settings) -> dict[str, dict[int, Rules]]:
    """Return the rules of second evictions, by event type and by delay in milliseconds."""
    found: dict[str, dict[int, list[RuleSettings]]] = {}
    for rule in settings.rule:
        if delay_ms := settings.again_ms(rule):
            found.setdefault(rule.on, {}).setdefault(delay_ms, []).append(rule)
    return {
        on: {delay_ms: _compiled(settings, rules) for delay_ms, rules in delays.items()} for on, delays in found.items()
    }


def gated_types(settings: Settings) -> set[str]:
    """Return the types of Debezium's events that wait until new reads see their change."""
    return {rule.on for rule in settings.rule if rule.is_for_debezium} if settings.debezium.url else set()


def _compiled(settings: Settings, rules: Iterable[RuleSettings]) -> Rules:
    return Rules(
        [(rule.on, rule.evict) for rule in rules],
        prefix=settings.memcached.prefix,
        event_keys=settings.limits.event_keys,
    )


def client_properties(settings: Settings) -> dict[str, Any]:
    """Return a connection's properties for the management UI: they show if two workers have equal rules and nodes."""
    memcached = settings.memcached
    meaning: list[Any] = [settings.rule, settings.limits, memcached.prefix, memcached.evict_on]
    if settings.events != EventSettings():  # a worker of the version before has no such settings
        meaning.append(settings.events)
    if gated_types(settings):
        meaning.append("gated")
    return {
        "cluster": settings.cluster,
        "ring_digest": _digest(settings.ring),
        "configuration_digest": _digest(meaning),
    }


def _digest(settings: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:12]
