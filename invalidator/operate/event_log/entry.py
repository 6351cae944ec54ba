"""One thing that happened to a key or an event."""

from datetime import UTC, datetime

from msgspec import Struct

OLDEST = datetime.min.replace(tzinfo=UTC)


class Entry(Struct, omit_defaults=True):
    """One thing that happened to a key or an event: a line of its history."""

    #: None if nobody said when.
    at: datetime | None
    #: Logged: "event", "poison" (an event that no worker could evict). Announced: "evicted", "healed" (evicted because
    #: it was read again from the log), "parked" (evicted, but not on ``nodes``), "drained" (evicted there, too),
    #: "emptied" (``nodes`` were flushed). Found out: "not announced", "dead letter", "gap".
    what: str
    #: The event's type.
    type: str = ""
    #: The event's message id. Of an announcement: that of the event that it answers, as far as it is known.
    id: str = ""
    #: The publisher's app_id, or the worker.
    by: str = ""
    #: The cluster whose worker announced it.
    cluster: str = ""
    nodes: list[str] = []
    keys: list[str] = []
    #: Templates of the rules that make the key, or the event's keys.
    rules: list[str] = []
    detail: str = ""
