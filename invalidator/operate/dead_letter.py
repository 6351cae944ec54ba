"""What a dead letter tells: which event it was, when it died and why; worked out again where nobody wrote it down.

A worker that buries an event writes the reason in headers. One that cannot publish (an alarm) rejects the event
instead, and one that crashes says nothing: then there is only RabbitMQ's ``x-death``, the body, and the rules. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2s
from typing import Any

import msgspec

from invalidator.broker.publisher import Properties
from invalidator.worker.planner import Plans

#: What `invalidator.worker.deferred.Outlet.bury` writes.
OURS = "x-invalidator-"
#: What RabbitMQ writes when it delivers or moves a message, and what would route it elsewhere.
BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "CC", "BCC")
#: A dead letter that never was an event.
DEBT = "unreadable-debt"


@dataclass(frozen=True)
class Letter:
    """A message of a dead-letter queue."""

    body: bytes
    properties: Properties
    #: On the channel that it was got from.
    tag: int = 0

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties.headers or {}

    @property
    def id(self) -> str:
        """By which commands name it: the same at every look, and for the same event buried twice."""
        return blake2s(self.body + (self.message_id or "").encode(), digest_size=4).hexdigest()

    @property
    def message_id(self) -> str | None:
        """The event's own."""
        return self.headers.get(f"{OURS}message-id") or self.properties.message_id

    @property
    def type(self) -> str:
        """The event's; "" where nothing says it."""
        return type_said(self.body, self.properties.message_type)

    @property
    def worker(self) -> str | None:
        """Who buried it."""
        return self.headers.get(f"{OURS}worker")

    @property
    def died_at(self) -> datetime | None:
        noted = self.headers.get(f"{OURS}at") or self.death.get("time")
        if isinstance(noted, str):
            noted = datetime.fromisoformat(noted)
        return noted.astimezone(UTC) if isinstance(noted, datetime) else None

    @property
    def death(self) -> dict[str, Any]:
        """What RabbitMQ noted last; empty where it was not RabbitMQ that moved it."""
        deaths = self.headers.get("x-death")
        return deaths[0] if isinstance(deaths, list) and deaths else {}

    def meaning(self) -> tuple[str | None, str | None, str | None, Mapping[str, Any]]:
        """As the planner asks it of a delivery."""
        return self.properties.message_type, self.properties.content_encoding, self.message_id, self.own_headers

    @property
    def own_headers(self) -> dict[str, Any]:
        """The headers that its publisher gave it."""
        return {name: value for name, value in self.headers.items() if not name.startswith((OURS, *BROKERS))}

    def as_event(self) -> Properties:
        """The properties with which it was published first, as far as they are known."""
        old = self.properties
        return Properties(
            headers=self.own_headers or None,
            content_type=old.content_type,
            content_encoding=old.content_encoding,
            message_type=old.message_type,
            message_id=self.message_id,
            timestamp=old.timestamp,
            app_id=old.app_id,
            correlation_id=old.correlation_id,
        )


@dataclass(frozen=True)
class Cause:
    """Why a letter is dead."""

    #: As in a `PoisonError`; or "delivery-limit", "rejected", "unknown".
    reason: str
    detail: str
    #: Whether it is worked out from body and rules, for lack of a header.
    worked_out: bool = False


def cause_of(letter: Letter, plans: Plans) -> Cause:
    """What its headers say; else what today's rules find wrong with it; else how RabbitMQ came to move it."""
    if reason := letter.headers.get(f"{OURS}reason"):
        return Cause(str(reason), str(letter.headers.get(f"{OURS}detail", "")))
    if poison := plans.plan([letter]).poison:
        error = poison[0][1]
        return Cause(error.reason, str(error), worked_out=True)
    match letter.death.get("reason"):
        case "delivery_limit":
            detail = "delivered as often as the queue allows: workers ended while they held it; replay it"
            return Cause("delivery-limit", detail, worked_out=True)
        case "rejected":
            return Cause("rejected", "a worker refused it, but by today's rules it is good: replay it", worked_out=True)
    return Cause("unknown", "by today's rules it is good: replay it", worked_out=True)


def type_said(body: bytes, said: str | None) -> str:
    """An event's type as far as its property or its body says it, be it poison or not; "" where neither does."""
    if said:
        return said
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    return str(fields.get("type") or "") if isinstance(fields, dict) else ""
