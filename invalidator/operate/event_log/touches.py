"""The logged events that evict a key, or that have an id."""

from collections.abc import Iterable, Iterator

from invalidator.assemble import type_source_of
from invalidator.broker.event_log import without_offset
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.properties import string_of
from invalidator.broker.wire.timestamp import published_at
from invalidator.events.sieve import Sieve
from invalidator.operate.event_log.entry import Entry
from invalidator.operate.tail import Interpreter
from invalidator.settings import Settings


class Touches:
    """Finds them by today's rules, and decodes only those that could be one."""

    def __init__(self, settings: Settings, wanted: str) -> None:
        self._interpreter = Interpreter(settings)
        self._wanted = wanted
        self._bytes = wanted.encode("utf-8", "surrogateescape")
        self._sieve = Sieve([(rule.on, rule.evict) for rule in settings.rule], wanted)
        #: A header or a field that names the type counts more than the property.
        self._knows_type = self._sieve.needs_type and type_source_of(settings) is None

    def among(self, deliveries: Iterable[Delivery]) -> Iterator[Entry]:
        """Yield an entry for each of them."""
        for delivery in deliveries:
            is_this = self._bytes in delivery.header
            if (is_this or self._passes(delivery)) and (entry := self._entry(delivery, is_this=is_this)):
                yield entry

    def _passes(self, delivery: Delivery) -> bool:
        type = delivery.meaning()[0] if self._knows_type else None
        return self._sieve.passes(delivery.body, delivery.header, type or None)

    def _entry(self, delivery: Delivery, *, is_this: bool) -> Entry | None:
        delivery.header = without_offset(delivery.header)
        seen = self._interpreter.interpret(delivery)
        if not seen or not (self._wanted in seen.keys or (is_this and self._wanted in seen.ids)):
            return None
        keys = {self._wanted} & set(seen.keys) or set(seen.keys)
        return Entry(
            published_at(delivery),
            seen.what,
            seen.of,
            "".join(seen.ids),
            string_of(delivery.header, "app_id") or "",
            keys=seen.keys,
            rules=self._interpreter.rules_making(delivery, keys) if keys else [],
            detail=seen.detail,
        )
