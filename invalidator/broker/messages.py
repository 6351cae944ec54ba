"""The wire formats of our own messages, all JSON: announcements, debts, receipts, statements.

An announcement, on the exchange ``cache.purged``, lists evicted keys; a heartbeat, once a second, lists none::

    {"cluster": "eu", "worker": "eu.host.4711.5f0a17c2", "number": 17, "keys": ["product:7"]}    an announcement
    {"cluster": "eu", "worker": "eu.host.4711.5f0a17c2", "number": 17}                           a heartbeat

An announcement may be lost, so each one of a worker carries the next number, from 1 on, and a heartbeat the last one.

A statement, on the exchange of the log, says which of a publisher's numbered events the broker has confirmed. In the
log it stands behind all of these, so a number that was not read before it is missing::

    {"publisher": "invalidator publisher shop @web [4711]", "epoch": "9f3a2c11d04b", "first": 1, "last": 42}
"""

from typing import Annotated, Literal, TypeVar

import msgspec

from invalidator.errors import PoisonError

T = TypeVar("T")

#: AMQP's delivery mode of a message that survives a restart of the broker.
PERSISTENT = 2
HEARTBEAT_SECONDS = 1.0
#: Keys in one announcement; more are announced in several.
ANNOUNCED_KEYS = 1000


class UnmatchedType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type of event that no rule is on."""

    type: str
    #: The nearest type with a rule, "" if none is near.
    nearest: str = ""


class WorkerState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's configuration, as digests, and what it has met: unmatched types, its nodes, a reason to wait."""

    ring_digest: str
    configuration_digest: str
    unmatched: list[UnmatchedType] = []
    #: The reason why nothing is acknowledged, if a batch can neither be evicted nor parked.
    waits_for: str = ""
    #: The IP addresses that it is connected to, by label; a node on a UNIX socket has none.
    connected: dict[str, str] = {}
    #: The gap that is being healed, if one is.
    healing: str = ""
    #: Publishers whose events in the log have no numbers, by app_id; known to the worker that reads the log.
    unnumbered: list[str] = []


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """A list of evicted keys, or a heartbeat."""

    cluster: str
    #: Unique to this run of this worker: numbers of another run do not continue these.
    worker: str
    #: The number of this announcement; in a heartbeat, of the last announcement before it.
    number: int
    keys: list[str] = []
    #: Ids of the events that caused the eviction, in the first announcement of their batch.
    events: list[str] = []
    #: Nodes on which these keys are not evicted yet, but parked; once they are, the keys are announced again.
    parked: list[str] = []
    #: True if a whole node was emptied: no list could name its keys.
    everything: bool = False
    #: The node from which keys that were parked for it are evicted now, or that was emptied instead; "" for all others.
    drained: str = ""
    #: True for keys of events that were read again from the log.
    healed: bool = False
    #: The worker's state, about once a second.
    state: WorkerState | None = None

    @property
    def is_heartbeat(self) -> bool:
        return not (self.keys or self.everything)


def read_announcement(body: bytes) -> Announcement:
    """Decode an announcement; raise `PoisonError` for a body that no worker of this version sends."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoisonError("unreadable-announcement", f"this version cannot read the announcement: {error}") from error


_decode = msgspec.json.Decoder(Announcement).decode


#: A key that memcached can hold; any other one in a debt would keep the whole queue from being drained.
Key = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x20\x7f-\x9f]{1,250}\Z")]
KEY_BYTES = 250


class Debt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The debt of a node: the logical keys still to be deleted there, or that everything is to be deleted."""

    v: Literal[1]
    keys: list[Key] = []
    flush: bool = False


def read_debt(body: bytes) -> Debt:
    """Decode a debt; raise `PoisonError` for a body that no worker of this version or the one before wrote."""
    try:
        debt = msgspec.json.decode(body, type=Debt)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoisonError("unreadable-debt", f"this version cannot read the debt: {error}") from error
    if any(len(key.encode()) > KEY_BYTES for key in debt.keys):  # the pattern counts characters
        raise PoisonError("unreadable-debt", f"this version cannot read the debt: a key has over {KEY_BYTES} bytes")
    return debt


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one event in one cluster."""

    cluster: str
    worker: str
    #: The worker's time, from taking the event's batch until it was settled.
    milliseconds: float
    #: Keys that every node confirmed.
    evicted: int = 0
    #: Nodes that did not answer, for which at least one of the keys is parked.
    parked: list[str] = []
    #: The reason why the event is a dead letter, if it is one.
    dead: str | None = None

    @property
    def is_gone(self) -> bool:
        """True if every node has confirmed: none of them holds an old value."""
        return not (self.parked or self.dead)


#: The type of a statement.
STATEMENT = "invalidator_statement"

#: The number of an event of one publisher: see `invalidator.broker.wire.number`.
EventNumber = Annotated[int, msgspec.Meta(ge=1, lt=10**10)]
#: Seconds that a statement may reach back: a year.
LONGEST_AGE = 366 * 86_400


class Statement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The numbers that a publisher's broker has confirmed since its statement before."""

    #: Its name, as the management UI shows it for its connection.
    publisher: str
    #: Unique to this run of this publisher: numbers of another run do not continue these.
    epoch: str
    first: EventNumber
    last: EventNumber
    #: Of these, the first and last of each run that was not confirmed: their events may be in the log or not.
    void: list[tuple[EventNumber, EventNumber]] = []
    #: Seconds at most since the first of these was taken.
    age: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_AGE)] = 0.0


def read_own(body: bytes, kind: type[T]) -> T | None:
    """Decode what a worker keeps in a queue for the next one; return None if another version or program wrote it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def read_statement(body: bytes) -> Statement:
    """Decode a statement; raise `PoisonError` for a body that no publisher of ours sends."""
    try:
        return msgspec.json.decode(body, type=Statement)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoisonError("unreadable-statement", f"this version cannot read the statement: {error}") from error
