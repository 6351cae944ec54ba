"""The feed: the keys of committed changes, from the events on the exchange and by the cluster's own rules.

An exclusive queue of the auditor's own is bound to the exchange, so it takes nothing from the workers. A change that
was never published is not in it. Named keys are checked without an event, too.
"""

from collections.abc import Callable, Sequence

from invalidator.audit.sampling import Sample
from invalidator.broker.consume.listener import Feed
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import PoisonError
from invalidator.events.event import decode
from invalidator.events.rules import Rules
from invalidator.events.types import TypeSource
from invalidator.settings import BrokerSettings

#: Seconds after which the broker drops an event that still waits: an auditor that hangs must not fill the broker.
MAX_AGE = 30.0


def product_updates(cluster: str) -> Callable[[BrokerSettings], Feed]:
    """Return the messages to receive, for the settings of the moment."""

    def feed(broker: BrokerSettings) -> Feed:
        return Feed("product updates", broker.exchange, f"invalidator-audit.{cluster}", max_age=MAX_AGE)

    return feed


class ChangeFeed:
    """A receiver of events that hands on the sampled keys of each."""

    def __init__(
        self,
        rules: Rules,
        sample: Sample,
        changed: Callable[[str], None],
        lost: Callable[[], None],
        *,
        source: TypeSource | None = None,
        body_bytes: int = 262_144,
    ) -> None:
        """Call `changed` with each sampled key, and `lost` when the connection is lost."""
        self._rules = rules
        self._sample = sample
        self._changed = changed
        self._lost = lost
        self._source = source
        self._needs_headers = bool(source and source.header)
        self._body_bytes = body_bytes
        self.is_linked = False

    def linked(self) -> None:
        self.is_linked = True

    def lost(self) -> None:
        if self.is_linked:
            self.is_linked = False
            self._lost()

    async def received(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            sampled = [key for key in self._keys(delivery) if key in self._sample]
            if self._rules.checked(sampled) is not None:
                for key in sampled:
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
