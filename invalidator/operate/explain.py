"""What an event would evict, worked out as a worker would, with nothing sent anywhere."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from msgspec import Struct

from invalidator.events import EVICT, decode, encode
from invalidator.operate.placement import PlacedKey, addresses, placed
from invalidator.settings import Settings
from invalidator.worker.parts import again_of, rules_of


class Template(Struct, frozen=True):
    """One line of a rule, and what it gives."""

    evict: str
    keys: list[PlacedKey]


class Again(Struct, frozen=True):
    """What `again_after` adds."""

    after_seconds: float
    keys: list[PlacedKey]


class Explanation(Struct, frozen=True):
    """What an event means for one cluster."""

    type: str
    cluster: str
    #: Empty where no rule knows the event's type: a worker acknowledges such an event and evicts nothing.
    rule: list[Template]
    #: Label -> address, of every node of the cluster.
    nodes: dict[str, str]
    #: The type that may have been meant, where no rule knows this one.
    nearest: str | None = None
    #: Evicted once more, so many seconds later.
    again: list[Again] = []


def explain(settings: Settings, type: str, fields: Mapping[str, Any]) -> Explanation:
    """The event's rule, keys and nodes.

    Raises:
        PoisonError: a worker would hand the event to the dead-letter queue; the reason says why.
        ConfigurationError: the rules cannot work.
    """
    rules = rules_of(settings)
    event = decode(encode(type, fields), type=type, limit=settings.limits.body_bytes)
    rule = [Template(text, placed(settings, keys)) for text, keys in rules.explain(event)]
    known = [EVICT, *(rule.on for rule in settings.rule)]
    nearest = None if type in rules.known else next(iter(get_close_matches(type, known, n=1)), None)
    again = [
        Again(delay_ms / 1000, placed(settings, later.keys(event)))
        for delay_ms, later in again_of(settings).get(type, {}).items()
    ]
    return Explanation(type, settings.cluster, rule, addresses(settings), nearest, again)
