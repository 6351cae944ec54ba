"""The names that an application imports: publishers, caches, and the errors that they raise.

Each name is loaded on first use. A process that only reads loads no pika, and one that only publishes loads no
pymemcache.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same as `_HOMES`, for type checkers
    from invalidator.app.cache.async_lookaside import AsyncLookAsideCache as AsyncLookAsideCache
    from invalidator.app.cache.freshness import Loaded as Loaded
    from invalidator.app.cache.hot_keys import Reads as Reads
    from invalidator.app.cache.items import Json as Json
    from invalidator.app.cache.items import Serializer as Serializer
    from invalidator.app.cache.items import Typed as Typed
    from invalidator.app.cache.lookaside import LookAsideCache as LookAsideCache
    from invalidator.app.near.cache import AsyncNearCache as AsyncNearCache
    from invalidator.app.near.cache import NearCache as NearCache
    from invalidator.app.publish.async_publisher import AsyncPublisher as AsyncPublisher
    from invalidator.app.publish.bus import EventBus as EventBus
    from invalidator.app.publish.bus import LocalEventBus as LocalEventBus
    from invalidator.app.publish.outbox import Outbox as Outbox
    from invalidator.app.publish.publisher import Publisher as Publisher
    from invalidator.app.publish.rabbit_bus import RabbitEventBus as RabbitEventBus
    from invalidator.app.publish.tracking import track as track
    from invalidator.broker.messages import Receipt as Receipt
    from invalidator.errors import ConfigurationError as ConfigurationError
    from invalidator.errors import IncompleteError as IncompleteError
    from invalidator.errors import InvalidatorError as InvalidatorError
    from invalidator.errors import PoisonError as PoisonError
    from invalidator.errors import RefusedError as RefusedError
    from invalidator.errors import UnconfirmedError as UnconfirmedError
    from invalidator.errors import UnreachableError as UnreachableError
    from invalidator.errors import UnroutableError as UnroutableError
    from invalidator.events.event import Event as Event

#: Module -> its public names.
_HOMES = {
    "invalidator.app.cache.async_lookaside": ["AsyncLookAsideCache"],
    "invalidator.app.cache.freshness": ["Loaded"],
    "invalidator.app.cache.hot_keys": ["Reads"],
    "invalidator.app.cache.items": ["Json", "Serializer", "Typed"],
    "invalidator.app.cache.lookaside": ["LookAsideCache"],
    "invalidator.app.near.cache": ["AsyncNearCache", "NearCache"],
    "invalidator.app.publish.async_publisher": ["AsyncPublisher"],
    "invalidator.app.publish.bus": ["EventBus", "LocalEventBus"],
    "invalidator.app.publish.outbox": ["Outbox"],
    "invalidator.app.publish.publisher": ["Publisher"],
    "invalidator.app.publish.rabbit_bus": ["RabbitEventBus"],
    "invalidator.app.publish.tracking": ["track"],
    "invalidator.broker.messages": ["Receipt"],
    "invalidator.errors": [
        "ConfigurationError",
        "IncompleteError",
        "InvalidatorError",
        "PoisonError",
        "RefusedError",
        "UnconfirmedError",
        "UnreachableError",
        "UnroutableError",
    ],
    "invalidator.events.event": ["Event"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
