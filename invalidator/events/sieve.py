"""Tells by an event's bytes that it cannot evict a key, at a tenth of the cost of decoding it. Pure.

    product:{id} and product:17 ─> the id is 17 ─> "17" or 17 is not in the body ─> not this event

Rules of this file:

1. Only an event that provably does not evict the key is left out. In doubt it passes, and is decoded.
2. A JSON string without a backslash stands in the body as it is, and so does a whole number: 1.0 and 1e0 are not whole.
   A body with a backslash passes.
3. Not every field stands in the body. Attributes of a CloudEvent may be headers, its data may be base64. A schema of
   Kafka Connect gives values another form. Debezium's "op" may be derived. All of these pass.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from invalidator.events.cloudevents import SPECVERSION
from invalidator.events.event import EVICT
from invalidator.events.templates import fields_making

#: In a body whose values may have another form there.
_CONVERTED = (b"\\", b'"data_base64"', b'"payload"')
_SPECVERSION = SPECVERSION.encode()
#: The field whose value may come from another one.
_DERIVED = "op"


class Needle(NamedTuple):
    """The value of a field without which an event does not evict the key."""

    #: Quick to look for.
    text: bytes
    #: Certain that they are a whole value.
    value: re.Pattern[bytes]

    @classmethod
    def of(cls, text: str) -> "Needle":
        encoded = text.encode("utf-8", "surrogateescape")
        found = re.escape(encoded)
        return cls(encoded, re.compile(rb'"' + found + rb'"|(?<![\w.])' + found + rb"(?![\w.])"))


class Sieve:
    """The values of one key, in any event that evicts it."""

    def __init__(self, rules: Iterable[tuple[str, Sequence[str]]], key: str) -> None:
        """Take the rules, each an event's type and its templates."""
        self._needles = {Needle.of(key)}  # of a `cache_evict`
        #: Types of events that may evict the key with other values, too.
        self._open: set[str] = set()
        for on, templates in rules:
            for template in templates:
                if (fields := fields_making(template, key)) is None or on == EVICT:
                    continue
                if (value := _value(template, key, fields)) is None:
                    self._open.add(on)
                else:
                    self._needles.add(Needle.of(value))

    @property
    def needs_type(self) -> bool:
        """True if `passes` asks for the type of an event."""
        return bool(self._open)

    def passes(self, body: bytes, header: bytes, type: str | None) -> bool:
        """Return False for an event that cannot evict the key. Without a ``type`` it may be any."""
        if self._open and (type is None or type in self._open):
            return True
        for needle in self._needles:
            if needle.text in body and needle.value.search(body):
                return True
        for odd in _CONVERTED:
            if odd in body:
                return True
        return _SPECVERSION in header


def _value(template: str, key: str, fields: dict[str, str]) -> str | None:
    """Return the longest value that stands in an event as it is; None if other values make the key, too."""
    if fields != fields_making(template, key, shortest_first=True):
        return None
    plain = [text for name, text in fields.items() if "|" not in name and name.rstrip("?") != _DERIVED]
    return max(plain, key=len, default=None)
