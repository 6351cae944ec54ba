"""From deliveries to what is to be done: the keys of a batch, once each, and the poison in it. Pure."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from invalidator.errors import PoisonError
from invalidator.events import Event, decode
from invalidator.rules import Rules

log = logging.getLogger(__name__)


class Delivery(Protocol):
    @property
    def body(self) -> bytes: ...

    def meaning(self) -> tuple[str | None, str | None, str | None, Mapping[str, Any] | None]:
        """The AMQP properties type, content encoding and message id, and the headers where they hold a CloudEvent."""
        ...


D = TypeVar("D", bound=Delivery)
K = TypeVar("K", str, bytes)


@dataclass
class Plan(Generic[D]):
    """What a batch asks for."""

    #: Distinct logical keys, in the order in which events named them first.
    keys: list[bytes] = field(default_factory=list)
    #: What can never be evicted, and why.
    poison: list[tuple[D, PoisonError]] = field(default_factory=list)
    #: Ids of the good events, as far as they have one.
    event_ids: list[str] = field(default_factory=list)
    #: Events that no rule is for; they are acknowledged and counted.
    unmatched: int = 0


class Planner:
    """Applies the rules to a batch."""

    def __init__(self, rules: Rules, *, body_bytes: int) -> None:
        self._rules = rules
        self._body_bytes = body_bytes

    def plan(self, deliveries: Sequence[D]) -> Plan[D]:
        """Never raises: one bad message is poison, and its neighbours never notice."""
        plan, texts = self._read(deliveries, self._rules.texts)
        keys = self._rules.checked(texts)
        if keys is None:  # some key can be none; whose it is shows one by one
            plan, alone = self._read(deliveries, self._rules.keys)
            keys = list(dict.fromkeys(alone))
        plan.keys = keys
        return plan

    def _read(self, deliveries: Sequence[D], keys_of: Callable[[Event], list[K]]) -> tuple[Plan[D], list[K]]:
        plan: Plan[D] = Plan()
        keys: list[K] = []
        knows, limit = self._rules.knows, self._body_bytes
        for delivery in deliveries:
            try:
                message_type, encoding, message_id, headers = delivery.meaning()
                event = decode(delivery.body, type=message_type, encoding=encoding, headers=headers, limit=limit)
                keys += keys_of(event)
            except PoisonError as error:
                plan.poison.append((delivery, error))
                continue
            except Exception as error:
                log.exception("an event broke its planning; it goes to the dead-letter queue, please report this")
                plan.poison.append((delivery, PoisonError("unexpected", f"{type(error).__name__}: {error}")))
                continue
            if message_id:
                plan.event_ids.append(message_id)
            if not knows(event.type):
                plan.unmatched += 1
        return plan, keys
