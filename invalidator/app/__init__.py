"""What an application imports: publishing and reading, each loaded when it is first asked for.

A reader of caches that never publishes does not load pika, nor a publisher pymemcache.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `_HOMES` says, for type checkers
    from invalidator.app.async_lookaside import AsyncLookAsideCache
    from invalidator.app.async_publisher import AsyncPublisher
    from invalidator.app.bounded import Reads
    from invalidator.app.bus import EventBus, LocalEventBus
    from invalidator.app.entries import Json, Serializer
    from invalidator.app.lookaside import LookAsideCache
    from invalidator.app.near import AsyncNearCache, NearCache
    from invalidator.app.outbox import Outbox
    from invalidator.app.publisher import Publisher
    from invalidator.app.rabbit_bus import RabbitEventBus
    from invalidator.app.source import Loaded
    from invalidator.events import Event

#: Public name -> the module it lives in.
_HOMES = {
    "AsyncLookAsideCache": "invalidator.app.async_lookaside",
    "AsyncNearCache": "invalidator.app.near",
    "AsyncPublisher": "invalidator.app.async_publisher",
    "Event": "invalidator.events",
    "EventBus": "invalidator.app.bus",
    "Json": "invalidator.app.entries",
    "Loaded": "invalidator.app.source",
    "LocalEventBus": "invalidator.app.bus",
    "LookAsideCache": "invalidator.app.lookaside",
    "NearCache": "invalidator.app.near",
    "Outbox": "invalidator.app.outbox",
    "Publisher": "invalidator.app.publisher",
    "RabbitEventBus": "invalidator.app.rabbit_bus",
    "Reads": "invalidator.app.bounded",
    "Serializer": "invalidator.app.entries",
}

__all__ = [
    "AsyncLookAsideCache",
    "AsyncNearCache",
    "AsyncPublisher",
    "Event",
    "EventBus",
    "Json",
    "Loaded",
    "LocalEventBus",
    "LookAsideCache",
    "NearCache",
    "Outbox",
    "Publisher",
    "RabbitEventBus",
    "Reads",
    "Serializer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
