"""What a reader asks for step by step, and what it is answered: the seam between the protocol and whoever drives it."""

from collections.abc import Generator
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import msgspec

from invalidator.app.cache.items import Item


class Get(msgspec.Struct, frozen=True):
    """Answered by the `Item`, None or a `Failure`."""

    key: str


class Add(msgspec.Struct, frozen=True):
    """Answered by whether it was stored, or a `Failure`."""

    key: str
    item: Item
    expire: int


class Gets(msgspec.Struct, frozen=True):
    """Answered by `Held`, None or a `Failure`."""

    key: str


class Cas(msgspec.Struct, frozen=True):
    """Answered by whether it was stored, or a `Failure`."""

    key: str
    item: Item
    expire: int
    token: Any


class LetGo(msgspec.Struct, frozen=True):
    """Hands the connection back, without a command."""

    token: Any


class Position(msgspec.Struct, frozen=True):
    """Where the primary is now; answered by None if it does not say."""


class Load(msgspec.Struct, frozen=True):
    """A new read of the source; answered by `Loaded`, or by the exception, thrown."""

    key: str


class Wait(msgspec.Struct, frozen=True):
    seconds: float


Command: TypeAlias = Get | Add | Gets | Cas | LetGo | Position | Load | Wait


class Failure(Enum):
    #: No answer, or none that can be trusted: whether the command was done is unknown.
    DOWN = "down"
    #: memcached answered with an error: the value is too large, or there is no memory.
    REFUSED = "refused"


class Held(NamedTuple):
    """What `Gets` found, and what its `Cas` needs: the connection and the CAS number."""

    item: Item
    token: Any


class Outcome(Enum):
    """How a read ended; the label of the metric."""

    HIT = "hit"
    WAITED = "waited"  # for another reader's fill
    STALE = "stale"  # the copy this process still had, as `stale_for` allows
    FILLED = "filled"
    EVICTED = "evicted"  # while it was loaded: served, not stored
    UNPROVEN = "unproven"  # the replica may be behind: served, not stored
    UNFILLED = "unfilled"  # memcached down, or nothing that it could store: served from the source


class Reading(NamedTuple):
    value: Any
    outcome: Outcome


Steps: TypeAlias = Generator[Command, Any, Reading]
