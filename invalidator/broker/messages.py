"""The wire formats of our own messages, all JSON: announcements, debts, receipts.

An announcement, on the exchange ``cache.purged``, lists evicted keys; a heartbeat, once a second, lists none::

    {"cluster": "eu", "worker": "eu.host.4711.5f0a17c2", "number": 17, "keys": ["product:7"]}    an announcement
    {"cluster": "eu", "worker": "eu.host.4711.5f0a17c2", "number": 17}                           a heartbeat

An announcement may be lost, so each one of a worker carries the next number, from 1 on, and a heartbeat the last one.
"""

from typing import Annotated, Literal

import msgspec

from invalidator.errors import PoisonError

#: AMQP's delivery mode of a message that survives a restart of the broker.
PERSISTENT = 2
HEARTBEAT_SECONDS = 1.0
#: Keys in one announcement; what names more is said in several.
ANNOUNCED_KEYS = 1000


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes over the wire, as JSON."""

    cluster: str
    #: Unique to this run of this worker: numbers of another run do not continue these.
    worker: str
    #: Of this announcement; in a heartbeat, of the last one before it.
    number: int
    keys: list[str] = []
    #: Ids of the events that asked for it, in the first announcement of their batch.
    events: list[str] = []
    #: Nodes on which these keys are not evicted yet, but owed; when they are, the keys are announced once more.
    parked: list[str] = []
    #: A whole node was emptied: no list could name its keys.
    everything: bool = False

    @property
    def is_heartbeat(self) -> bool:
        return not (self.keys or self.everything)


def read_announcement(body: bytes) -> Announcement:
    """Raises `PoisonError` for what no worker of this version sends."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoisonError("unreadable-announcement", f"no announcement that this version can read: {error}") from error


_decode = msgspec.json.Decoder(Announcement).decode


#: One that memcached can hold; any other, evicted with its debt, would keep the whole queue from being drained.
Key = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,250}\Z")]


class Debt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a node is owed: the logical keys to delete there, or that everything is to be deleted."""

    v: Literal[1]
    keys: list[Key] = []
    flush: bool = False


def read_debt(body: bytes) -> Debt:
    """A debt from its message; raises `PoisonError` for what no worker of this version or the one before wrote."""
    try:
        return msgspec.json.decode(body, type=Debt)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoisonError("unreadable-debt", f"no debt that this version can read: {error}") from error


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event in one cluster; JSON on the wire."""

    cluster: str
    worker: str
    #: Of the worker, from taking the event's batch to having settled it.
    milliseconds: float
    #: Keys that every node confirmed.
    evicted: int = 0
    #: Nodes that did not answer, and are owed at least one of the keys.
    parked: list[str] = []
    #: Why the event is a dead letter, if it is one.
    dead: str | None = None
