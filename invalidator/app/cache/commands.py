"""The commands that a reader yields and the answers it is sent: the seam between the protocol and its drivers."""

from collections.abc import Generator
from concurrent.futures import Future
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import msgspec

from invalidator.app.cache.items import Item


class Get(msgspec.Struct, frozen=True):
    """Read an item. The answer is the `Item`, None or a `Failure`."""

    key: str


class Add(msgspec.Struct, frozen=True):
    """Store an item where there is no other. The answer is True if it was stored, False if not, or a `Failure`."""

    key: str
    item: Item
    expire: int


class Gets(msgspec.Struct, frozen=True):
    """Read an item and hold its connection. The answer is `Held`, None or a `Failure`."""

    key: str


class Cas(msgspec.Struct, frozen=True):
    """Replace the item that `Gets` found. The answer is True if it was stored, False if not, or a `Failure`."""

    key: str
    item: Item
    expire: int
    token: Any


class LetGo(msgspec.Struct, frozen=True):
    """Return the connection that `Gets` held, without a command."""

    token: Any


class Position(msgspec.Struct, frozen=True):
    """Ask the primary for its position. The answer is a number, or None if it is unknown."""


class Load(msgspec.Struct, frozen=True):
    """Begin a new read of the source. The answer is `Loaded`; an error is thrown into the reader."""

    key: str


class Wait(msgspec.Struct, frozen=True):
    """Pause while another reader fills."""

    seconds: float


class Join(msgspec.Struct, frozen=True):
    """Pause until another reader of this process is done, or `seconds` are over."""

    ended: Future[None]
    seconds: float


Command: TypeAlias = Get | Add | Gets | Cas | LetGo | Position | Load | Wait | Join


class Failure(Enum):
    """The reasons why memcached gave no usable answer."""

    #: No answer arrived, or none that can be trusted: the command may have been executed.
    DOWN = "down"
    #: memcached answered with an error: the value is too large, or memory is short.
    REFUSED = "refused"


class Held(NamedTuple):
    """The item that `Gets` found, with the connection and CAS number that its `Cas` needs."""

    item: Item
    token: Any


class ReadOutcome(Enum):
    """The ways in which a read ends; the label of the metric."""

    HIT = "hit"
    WAITED = "waited"  # for another reader's fill
    SHARED = "shared"  # loaded once for several readers of this process
    STALE = "stale"  # served from the copy in this process, as `stale_for` allows
    FILLED = "filled"
    EVICTED = "evicted"  # while it was being loaded: served, not stored
    UNPROVEN = "unproven"  # the replica may be behind: served, not stored
    UNFILLED = "unfilled"  # memcached is down or cannot store the value: served from the source


class Reading(NamedTuple):
    """The value of a key, and how it was obtained."""

    value: Any
    outcome: ReadOutcome


Steps: TypeAlias = Generator[Command, Any, Reading]
