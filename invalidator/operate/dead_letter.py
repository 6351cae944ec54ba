"""A dead letter: the event in it, when it died and why.

A worker that dead-letters an event writes the reason in headers. A worker that cannot publish (during an alarm) rejects
the event instead, and one that crashes writes nothing. The reason is then inferred from RabbitMQ's ``x-death``, the
body and the rules. Pure.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import blake2s
from typing import Any

import msgspec

from invalidator.broker.wire.header import Meaning, Properties
from invalidator.broker.wire.properties import OF_THE_EVENT, Read, copy_of, read, string_of
from invalidator.errors import PoisonError
from invalidator.events.event import decode
from invalidator.worker.planner import Plans

#: Prefix of the headers that a worker writes when it dead-letters an event.
OURS = "x-invalidator-"
#: Headers that RabbitMQ writes when it delivers or moves a message, and those that would route it elsewhere.
BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "CC", "BCC")
#: The reason of a dead letter that never was an event.
DEBT = "unreadable-debt"


@dataclass(frozen=True)
class DeadLetter:
    """A message of a dead-letter queue."""

    body: bytes
    #: The content header's payload from the property flags on, as it came.
    header: bytes
    #: Its delivery tag on the channel that it was read from.
    tag: int = 0

    @cached_property
    def _read(self) -> Read:
        return read(self.header)

    @property
    def properties(self) -> Properties:
        """The properties that can be read."""
        return self._read.properties

    @property
    def unreadable(self) -> dict[str, str]:
        """The properties that cannot be read, as text."""
        return {name: str(value) for name, value in self._read.unreadable.items()}

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties.headers or {}

    @property
    def id(self) -> str:
        """The id used in commands: the same at every reading, and for the same event dead-lettered twice."""
        return blake2s(self.body + (self.message_id or "").encode(), digest_size=4).hexdigest()

    @property
    def message_id(self) -> str | None:
        """The message id of the event."""
        noted = self.headers.get(f"{OURS}message-id")
        return noted if noted and isinstance(noted, str) else string_of(self.header, "message_id")

    @property
    def type(self) -> str:
        """The type of the event, or "" if nothing gives it."""
        return declared_type(self.body, self.meaning())

    @property
    def worker(self) -> str | None:
        """The worker that dead-lettered it."""
        worker = self.headers.get(f"{OURS}worker")
        return worker if isinstance(worker, str) else None

    @property
    def died_at(self) -> datetime | None:
        noted = self.headers.get(f"{OURS}at") or self.death.get("time")
        try:
            died = datetime.fromisoformat(noted) if isinstance(noted, str) else noted
            return died.astimezone(UTC) if isinstance(died, datetime) else None
        except (ValueError, OverflowError):  # anybody may have written it
            return None

    @property
    def death(self) -> dict[str, Any]:
        """RabbitMQ's last ``x-death`` entry, or empty if RabbitMQ did not move it."""
        deaths = self.headers.get("x-death")
        last = deaths[0] if isinstance(deaths, list) and deaths else None
        return last if isinstance(last, dict) else {}

    def meaning(self) -> Meaning:
        """Return what the planner needs of a delivery."""
        names = ("message_type", "content_encoding", "content_type")
        type, encoding, content_type = (string_of(self.header, name) for name in names)
        return type, encoding, self.message_id, self.own_headers, content_type

    @property
    def own_headers(self) -> dict[str, Any]:
        """The headers that its publisher wrote."""
        return {name: value for name, value in self.headers.items() if not _is_noted(name)}

    def as_event(self) -> Properties:
        """Return the properties with which it was first published, byte by byte, with its own message id."""
        return copy_of(self.header, OF_THE_EVENT, left_out=_is_noted, headers={}, message_id=self.message_id)


def _is_noted(header: str) -> bool:
    """Return True for a header that a worker or RabbitMQ has added."""
    return header.startswith((OURS, *BROKERS))


@dataclass(frozen=True)
class Cause:
    """The reason why a message is a dead letter."""

    #: As in a `PoisonError`, or "delivery-limit", "rejected", "unknown".
    reason: str
    detail: str
    #: True if it was inferred from body and rules, because no header gives it.
    is_inferred: bool = False


def cause_of(dead_letter: DeadLetter, plans: Plans) -> Cause:
    """Return the cause that its headers name, else the fault that today's rules find, else RabbitMQ's own reason."""
    if reason := dead_letter.headers.get(f"{OURS}reason"):
        return Cause(str(reason), str(dead_letter.headers.get(f"{OURS}detail", "")))
    if poison := plans.plan([dead_letter]).poison:
        error = poison[0][1]
        return Cause(error.reason, str(error), is_inferred=True)
    match dead_letter.death.get("reason"):
        case "delivery_limit":
            detail = "delivered as often as the queue allows: workers ended while they held it; replay it"
            return Cause("delivery-limit", detail, is_inferred=True)
        case "rejected":
            detail = "a worker refused it, but today's rules can evict it: replay it"
            return Cause("rejected", detail, is_inferred=True)
    return Cause("unknown", "today's rules can evict it: replay it", is_inferred=True)


def declared_type(body: bytes, meaning: Meaning) -> str:
    """Return an event's type, of whatever format, even of poison, or "" if nothing gives it."""
    type, encoding, _, headers, content_type = meaning
    try:
        return decode(body, type, encoding, headers, limit=len(body), content_type=content_type).type
    except PoisonError:
        return type or _field_type(body)


def _field_type(body: bytes) -> str:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    return str(fields.get("type") or "") if isinstance(fields, dict) else ""
