"""Turns a batch of deliveries into a plan: the distinct keys to evict, and the poison. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from invalidator.broker.gap import Gap
from invalidator.errors import PoisonError
from invalidator.events import debezium
from invalidator.events.event import GAP, Event, decode
from invalidator.events.rules import Rules
from invalidator.events.types import TypeSource
from invalidator.runtime.logs import Log

log = Log(__name__)


class Plannable(Protocol):
    """A message that rules can be applied to: a delivery, or a dead letter."""

    @property
    def body(self) -> bytes: ...
    @property
    def properties(self) -> Any: ...

    def meaning(self) -> tuple[str | None, str | None, str | None, Mapping[str, Any] | None, str | None]:
        """Return type, content encoding, message id, the headers if they may hold a CloudEvent, and content type."""
        ...


D = TypeVar("D", bound=Plannable)
K = TypeVar("K", str, bytes)


class Plan(msgspec.Struct, Generic[D]):
    """The evictions that a batch asks for, and the rest of it."""

    #: Distinct logical keys, in the order in which events named them first.
    keys: list[bytes] = []
    #: The same keys as str, for announcements.
    texts: list[str] = []
    #: Deliveries that can never be evicted, and why.
    poison: list[tuple[D, PoisonError]] = []
    #: Message ids of the good events that have one.
    event_ids: list[str] = []
    #: Number of events without a rule; they are acknowledged and counted.
    unmatched: int = 0
    #: Their types, with repetitions.
    unmatched_types: list[str] = []
    #: Debezium's tombstones, and its messages about something other than rows: no rule is expected for them.
    tombstones: int = 0
    notices: int = 0
    #: Gaps that publishers have found.
    gaps: list[Gap] = []
    #: Debezium's changes that may not be visible yet, each with the number of its transaction.
    commits: list[tuple[D, int]] = []
    #: Keys to evict a second time, by the delay in milliseconds.
    again: dict[int, list[bytes]] = {}


class Plans(Protocol):
    """The one method of a planner that its callers use."""

    def plan(self, deliveries: Sequence[Any]) -> Plan[Any]: ...


class Planner:
    """The rules, applied to a batch at a time."""

    def __init__(
        self,
        rules: Rules,
        *,
        body_bytes: int,
        again: Mapping[str, Mapping[int, Rules]] = MappingProxyType({}),
        source: TypeSource | None = None,
        gated: Collection[str] = (),
    ) -> None:
        """Take the rules; ``again`` maps an event type and a delay in milliseconds to the rules of second evictions.

        ``gated`` are the types of events whose transactions are looked up.
        """
        self._rules = rules
        self._body_bytes = body_bytes
        self._again = dict(again)
        self._gated = gated
        #: Types of events that need more than an eviction.
        self._special = {*again, *gated}
        self._source = source
        self._needs_headers = bool(source and source.header)

    def plan(self, deliveries: Sequence[D]) -> Plan[D]:
        """Plan a batch. Never raises: a bad message is poison, and its neighbours are planned as ever."""
        plan, texts, special = self._read(deliveries, self._rules.texts)
        distinct = dict.fromkeys(texts)
        keys = self._rules.checked(distinct)
        if keys is None:  # some text is not a key; planning one by one finds whose it is
            plan, alone, special = self._read(deliveries, self._rules.keys)
            keys = list(dict.fromkeys(alone))
            distinct = dict.fromkeys(key.decode() for key in keys)
        plan.keys, plan.texts = keys, list(distinct)
        if special:
            plan.again = self._keys_again(event for _, event in special)
            plan.commits = [(delivery, xid) for delivery, event in special if (xid := self._transaction(event))]
        return plan

    def _read(
        self, deliveries: Sequence[D], keys_of: Callable[[Event], list[K]]
    ) -> tuple[Plan[D], list[K], list[tuple[D, Event]]]:
        """Return the plan without its keys, the keys with repetitions, and the events that need more than that."""
        plan: Plan[D] = Plan()
        keys: list[K] = []
        special: list[tuple[D, Event]] = []
        event_ids, known, types, limit = plan.event_ids, self._rules.known, self._special, self._body_bytes
        source, needs_headers = self._source, self._needs_headers
        for delivery in deliveries:
            try:
                message_type, encoding, message_id, headers, content_type = delivery.meaning()
                if needs_headers:
                    headers = delivery.properties.headers
                event = decode(delivery.body, message_type, encoding, headers, limit, content_type, source)
                keys += keys_of(event)
            except PoisonError as error:
                plan.poison.append((delivery, self._explained(delivery, error)))
                continue
            except Exception as error:
                log.exception("unexpected error while planning an event; dead-lettering it (please report this bug)")
                plan.poison.append((delivery, PoisonError("unexpected", f"{type(error).__name__}: {error}")))
                continue
            if message_id:
                event_ids.append(message_id)
            if event.type not in known:
                _without_rule(plan, delivery, event)
            if event.type in types:
                special.append((delivery, event))
        return plan, keys, special

    def _transaction(self, event: Event) -> int | None:
        return debezium.transaction_of(event.fields) if event.type in self._gated else None

    def _explained(self, delivery: Plannable, error: PoisonError) -> PoisonError:
        """Return the error; of an event without a type, the one that knows all headers, which may name its type."""
        if error.reason != "no-type":
            return error
        try:
            kind, encoding, _, _, content_type = delivery.meaning()
            decode(delivery.body, kind, encoding, delivery.properties.headers, self._body_bytes, content_type)
        except PoisonError as fuller:
            return fuller
        return error

    def _keys_again(self, events: Iterable[Event]) -> dict[int, list[bytes]]:
        found: dict[int, dict[bytes, None]] = {}
        for event in events:
            for delay_ms, rules in self._again.get(event.type, {}).items():
                found.setdefault(delay_ms, {}).update(dict.fromkeys(rules.keys(event)))
        return {delay_ms: list(keys) for delay_ms, keys in found.items()}


def _without_rule(plan: Plan[Any], delivery: Plannable, event: Event) -> None:
    """Count an event that no rule is for, or keep the gap that it reports."""
    if event.type == debezium.TOMBSTONE:
        plan.tombstones += 1
    elif event.type in debezium.NOTICES:
        plan.notices += 1
    elif event.type == GAP:
        try:
            gap = msgspec.convert(event.fields, Gap)
            plan.gaps.append(Gap(gap.since, gap.until, gap.reason, is_unpublished=True))
        except msgspec.ValidationError as error:
            plan.poison.append((delivery, PoisonError("wrong-type", f"{GAP}: {error}")))
    else:
        plan.unmatched += 1
        plan.unmatched_types.append(event.type)
