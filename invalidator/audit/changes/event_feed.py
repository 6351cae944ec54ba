"""The keys of committed changes, from the events on the exchange and by the cluster's own rules.

An exclusive queue of the auditor's own is bound to the exchange, so it takes nothing from the workers. A change that
was never published is not in it: only the database's log has that one (`invalidator.audit.changes.row_feed`). For keys
whose changes come from there an event is no change of its own. It is noted that it came.
"""

import time
from collections.abc import Callable, Sequence

from invalidator.audit.changes.sampling import Sample
from invalidator.broker.consume.listener import Feed
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import PoisonError
from invalidator.events.event import decode
from invalidator.events.followed import table_of
from invalidator.events.rules import Rules
from invalidator.events.templates import fields_making
from invalidator.events.types import TypeSource
from invalidator.follow.changes import APP_ID
from invalidator.settings import BrokerSettings, RuleSettings

#: Seconds after which the broker drops an event that still waits: an auditor that hangs must not fill the broker.
MAX_AGE = 30.0


def product_updates(cluster: str) -> Callable[[BrokerSettings], Feed]:
    """Return the messages to receive, for the settings of the moment."""

    def feed(broker: BrokerSettings) -> Feed:
        return Feed("product updates", broker.exchange, f"invalidator-audit.{cluster}", max_age=MAX_AGE)

    return feed


class Logged:
    """The changes that the database's log holds, too."""

    def __init__(self, rules: Sequence[RuleSettings]) -> None:
        self._templates = [template for rule in rules if table_of(rule.on) for template in rule.evict]

    def has(self, delivery: Delivery, key: str) -> bool:
        """Return True if a follower has published the event, or if a rule on rows makes the key."""
        return delivery.properties.app_id == APP_ID or any(
            fields_making(template, key) is not None for template in self._templates
        )


class EventFeed:
    """A receiver of events that hands on the sampled keys of each."""

    def __init__(
        self,
        rules: Rules,
        sample: Sample,
        published: Callable[[str], None],
        changed: Callable[[str], None],
        lost: Callable[[], None],
        *,
        logged: Logged | None = None,
        source: TypeSource | None = None,
        body_bytes: int = 262_144,
    ) -> None:
        """Call `published` with each sampled key, then `changed` unless it is `logged`; `lost` with the connection."""
        self._rules = rules
        self._sample = sample
        self._published = published
        self._changed = changed
        self._lost = lost
        self._logged = logged
        self._source = source
        self._needs_headers = bool(source and source.header)
        self._body_bytes = body_bytes
        #: The moment since which no event was missed, on the monotonic clock.
        self.since = float("inf")

    @property
    def is_linked(self) -> bool:
        return self.since < float("inf")

    def linked(self) -> None:
        self.since = time.monotonic()

    def lost(self) -> None:
        if self.is_linked:
            self.since = float("inf")
            self._lost()

    async def received(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            for key in self._sample.of(self._rules, self._keys(delivery)):
                self._published(key)
                if not (self._logged and self._logged.has(delivery, key)):
                    self._changed(key)

    def _keys(self, delivery: Delivery) -> Sequence[str]:
        """Return the keys of an event, not checked yet; of poison, which the workers report, no key."""
        type, encoding, _, headers, content_type = delivery.meaning()
        if self._needs_headers:
            headers = delivery.properties.headers
        try:
            event = decode(delivery.body, type, encoding, headers, self._body_bytes, content_type, self._source)
            return self._rules.texts(event)
        except PoisonError:
            return ()
