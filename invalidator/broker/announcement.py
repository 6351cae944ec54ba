"""What workers say on the exchange ``cache.purged``: what was evicted, numbered, and once a second that they are there.

    {"cluster": "eu", "worker": "eu.host.4711.5f0a17c2", "number": 17, "keys": ["product:7"]}    an announcement
    {"cluster": "eu", "worker": "eu.host.4711.5f0a17c2", "number": 17}                           a heartbeat

An announcement may be lost, so each one of a worker carries the next number, from 1 on, and a heartbeat the last one.
"""

import msgspec

from invalidator.errors import PoisonError

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
