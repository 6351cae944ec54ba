"""The rules: which keys an event evicts, by filling in the templates of its type.

    on = "product_updated"    evict = ["product:{id}", "category:{before.category_id?}:listing", "tag:{tags|lower}"]

Rules of this file:

1. A key is never cleaned up, because a cleaned-up key is a different key. An event with an impossible key is poison.
2. Every key that leaves here has 1 to 250 bytes of UTF-8, prefix included, without spaces and control characters. No
   byte of an event can end a memcached command.
"""

from collections.abc import Collection, Container, Iterable, Sequence
from functools import partial
from typing import Any

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events.event import EVICT, GAP, Event
from invalidator.events.followed import CHANGED, truncated_table
from invalidator.events.quoting import quoted
from invalidator.events.templates import (
    FORBIDDEN,
    Template,
    TemplateError,
    compile_template,
    named_keys,
    short_cut,
    too_many,
)

#: Maximum length of a key in bytes, prefix included (memcached's protocol.txt).
KEY_BYTES = 250

#: All bytes that may be in a key.
ALPHABET = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))


class Rules:
    """The templates of each type of event, compiled."""

    def __init__(
        self, rules: Iterable[tuple[str, Sequence[str]]], *, prefix: str = "", event_keys: int = 10_000
    ) -> None:
        """Compile `rules`, each an event's type and its templates.

        Clients put `prefix` before every key. It is counted here and added elsewhere. One event may evict at most
        `event_keys` keys.

        Raises:
            ConfigurationError: a rule can never work; the message names rule, template and column.
        """
        if (why := wrong_key(prefix or "-", KEY_BYTES - 1)) is not None:
            raise ConfigurationError(f"the key prefix {quoted(prefix)} {why}")
        self._event_keys = event_keys
        self._key_bytes = KEY_BYTES - len(prefix.encode())
        self._templates = {EVICT: [Template(text=f"{EVICT} (built in)", build=named_keys(event_keys))]}
        for number, (on, templates) in enumerate(rules, start=1):
            self._add(on, templates, f'rule {number} (on "{on}")')
        self._builds = {
            type: short_cut(templates, event_keys, partial(self._texts, templates))
            for type, templates in self._templates.items()
        }

    def _add(self, on: str, templates: Sequence[str], where: str) -> None:
        if on == EVICT:
            raise ConfigurationError(
                f"{where}: this event is built in and evicts the keys that it lists; use another type"
            )
        if on == GAP:
            raise ConfigurationError(f"{where}: this event is built in and reports a gap; use another type")
        compiled = self._templates.setdefault(on, [])
        for template in templates:
            try:
                compiled.append(compile_template(template, self._key_bytes, self._event_keys))
            except TemplateError as error:
                raise ConfigurationError(f"{where}, template {quoted(template)}, {error}") from None

    @property
    def known(self) -> Container[str]:
        """The types of event that have a rule."""
        return self._templates

    def keys(self, event: Event) -> list[bytes]:
        """Return the distinct keys that an event evicts, without the prefix, in the order of the rules.

        Raises:
            PoisonError: missing-field, wrong-type, bad-key or too-many-keys.
        """
        keys = self.checked(dict.fromkeys(self.texts(event)))
        if keys is None:
            raise self._refusal(event)
        return keys

    def explain(self, event: Event) -> list[tuple[str, list[bytes]]]:
        """Return each template of the event's type with its keys. Raises the same errors as `keys`."""
        self.keys(event)
        templates = self._templates.get(event.type, ())
        return [(template.text, [text.encode() for text in template.build(event.fields)]) for template in templates]

    def texts(self, event: Event) -> list[str]:
        """Return an event's keys as text and not yet `checked`, so that a whole batch can be checked at once.

        Raises:
            PoisonError: missing-field, wrong-type or too-many-keys; bad-key if a template cannot be filled in;
                table-truncated if the table's rows have rules and its truncation has none.
        """
        build = self._builds.get(event.type)
        return build(event.fields) if build else self._without_rule(event.type)

    def _without_rule(self, type: str) -> list[str]:
        table = truncated_table(type)
        if table and CHANGED + table in self._templates:
            raise PoisonError(
                "table-truncated",
                f'{quoted(table)} was truncated: run invalidator flush, or write a rule on "{type[:80]}"',
            )
        return []

    def _texts(self, templates: Iterable[Template], fields: dict[str, Any]) -> list[str]:
        texts: list[str] = []
        for template in templates:
            try:
                texts += template.build(fields)
            except ValueError as error:  # a lone surrogate in a filter, a number of more than 4,300 digits
                raise PoisonError("bad-key", f'"{template.text}" cannot be filled in: {error}') from error
            if len(texts) > self._event_keys:
                texts = list(dict.fromkeys(texts))
                if len(texts) > self._event_keys:
                    raise too_many(len(texts), self._event_keys, template.text)
        return texts

    def checked(self, distinct: Collection[str]) -> list[bytes] | None:
        """Return the keys, or None if any cannot be a key. Checking all at once costs a tenth of checking each."""
        if not distinct:
            return []
        if not all(distinct) or max(map(len, distinct)) > self._key_bytes:
            return None
        joined = "\n".join(distinct)
        if not joined.isascii():
            return self._checked_one_by_one(distinct)
        encoded = joined.encode("ascii")
        # A key that contains a line end would count as two.
        if encoded.translate(None, ALPHABET) != b"\n" * (len(distinct) - 1):
            return None
        return encoded.split(b"\n")

    def _checked_one_by_one(self, distinct: Iterable[str]) -> list[bytes] | None:
        if any(wrong_key(key, self._key_bytes) for key in distinct):
            return None
        return [key.encode() for key in distinct]

    def _refusal(self, event: Event) -> PoisonError:
        """Return the reason for which `checked` refuses an event's keys."""
        for template in self._templates.get(event.type, ()):
            for key in template.build(event.fields):
                if why := wrong_key(key, self._key_bytes):
                    fix = "(|quote escapes a field and |md5 shortens it, if the clients do the same)"
                    return PoisonError("bad-key", f'the key {quoted(key)} of "{template.text}" {why} {fix}')
        raise AssertionError("the fast check and the slow one disagree")


def wrong_key(key: str, key_bytes: int) -> str | None:
    """Return what keeps a text from being a memcached key of at most `key_bytes` bytes, or None if nothing does."""
    if FORBIDDEN.search(key):
        return "holds a space or a control character"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "is not Unicode: it holds half of a surrogate pair, or bytes that are not UTF-8"
    if not 1 <= size <= key_bytes:
        return f"has {size} bytes, 1 to {key_bytes} are allowed"
    return None
