"""Keys as `cache_evict` events, which every cluster evicts."""

from collections.abc import Iterator, Sequence

import msgspec

from invalidator.app.publish.message import Message
from invalidator.events.event import EVICT, encode
from invalidator.operate.publish import message_of
from invalidator.settings import LimitSettings


def eviction_events(keys: Sequence[bytes], limits: LimitSettings) -> Iterator[Message]:
    """Yield the keys in `cache_evict` events, as few as the limits allow."""
    names: list[str] = []
    room = limits.body_bytes - _size([])
    for key in keys:
        name = key.decode()
        # In a list each name but the first has a comma before it, so the first leaves a byte to spare.
        size = len(msgspec.json.encode(name)) + 1
        if names and (size > room or len(names) == limits.event_keys):
            yield _event(names, limits)
            names, room = [], limits.body_bytes - _size([])
        names.append(name)
        room -= size
    if names:
        yield _event(names, limits)


def _event(names: list[str], limits: LimitSettings) -> Message:
    return message_of(encode(EVICT, {"keys": names}), limit=limits.body_bytes)


def _size(names: list[str]) -> int:
    return len(msgspec.json.encode({"type": EVICT, "keys": names}))
