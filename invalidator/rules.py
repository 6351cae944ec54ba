"""What an event means for the cache: the templates of its type, each filled in.

    on = "product_updated"    evict = ["product:{id}", "category:{before.category_id?}:listing", "tag:{tags|lower}"]

Rules of this file:

1. A key is never cleaned: a cleaned key is a different key. What cannot be a key makes its event poison.
2. What leaves here is 1 to 250 bytes of printable ASCII without spaces, the prefix counted: no byte of an event can
   end a memcached command.
"""

import re
from collections.abc import Iterable, Sequence

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events import EVICT, Event, quoted
from invalidator.templates import (
    KEY_ALPHABET,
    PRINTABLE,
    Template,
    TemplateError,
    compile_template,
    named_keys,
    no_short_cut,
    too_many,
)

#: Bytes of a key, its prefix included (memcached's protocol.txt).
KEY_BYTES = 250


class Rules:
    """Which keys each type of event evicts."""

    def __init__(
        self, rules: Iterable[tuple[str, Sequence[str]]], *, prefix: str = "", event_keys: int = 10_000
    ) -> None:
        """Compile `rules`, each an event's type and its templates.

        `prefix` is what clients put before every key; it is counted here and added elsewhere. `event_keys` is how many
        keys one event may evict.

        Raises:
            ConfigurationError: a rule that can never work; the message names rule, template and column.
        """
        if len(prefix) >= KEY_BYTES or not PRINTABLE.fullmatch(prefix):
            raise ConfigurationError(
                f"the key prefix {quoted(prefix)} must be short and printable ASCII without spaces"
            )
        self._event_keys = event_keys
        self._key_bytes = KEY_BYTES - len(prefix)
        self._can_be_key = re.compile(rf"[\x21-\x7e]{{1,{self._key_bytes}}}").fullmatch
        self._templates = {
            EVICT: [Template(text=f"{EVICT} (built in)", build=named_keys(event_keys), short_cut=no_short_cut)]
        }
        for number, (on, templates) in enumerate(rules, start=1):
            self._add(on, templates, f'rule {number} (on "{on}")')

    def _add(self, on: str, templates: Sequence[str], where: str) -> None:
        if on == EVICT:
            raise ConfigurationError(f"{where}: this event is built in and evicts the keys it names; use another type")
        compiled = self._templates.setdefault(on, [])
        for template in templates:
            try:
                compiled.append(compile_template(template, self._key_bytes, self._event_keys))
            except TemplateError as error:
                raise ConfigurationError(f"{where}, template {quoted(template)}, {error}") from None

    def knows(self, type: str) -> bool:
        """Whether events of this type mean anything here."""
        return type in self._templates

    def keys(self, event: Event) -> list[bytes]:
        """The distinct keys that an event evicts, without the prefix, in the order of the rules.

        Raises:
            PoisonError: missing-field, wrong-type, bad-key or too-many-keys.
        """
        keys: list[bytes] = []
        for template in self._templates.get(event.type, ()):
            key = template.short_cut(event.fields)
            if key is not None and len(key) <= self._key_bytes:
                keys.append(key)
            else:
                keys += self._keys(template, event)
            if len(keys) > self._event_keys:
                keys = list(dict.fromkeys(keys))
                if len(keys) > self._event_keys:
                    raise too_many(len(keys), self._event_keys, template.text)
        return keys if len(keys) == 1 else list(dict.fromkeys(keys))

    def explain(self, event: Event) -> list[tuple[str, list[bytes]]]:
        """Each template of the event's type with the keys it gives; raises as `keys` does."""
        self.keys(event)
        return [(template.text, self._keys(template, event)) for template in self._templates.get(event.type, ())]

    def _keys(self, template: "Template", event: Event) -> list[bytes]:
        try:
            texts = list(template.build(event.fields))
            return self._checked_at_once(texts) or [self._checked(key, template) for key in texts]
        except ValueError as error:  # a lone surrogate in a filter, a number of more than 4,300 digits
            raise PoisonError("bad-key", f'"{template.text}" cannot be filled in: {error}') from error

    def _checked_at_once(self, texts: list[str]) -> list[bytes] | None:
        """The keys, if all are good: found without looking at each."""
        if not texts or not all(texts) or max(map(len, texts)) > self._key_bytes:
            return None
        joined = "\n".join(texts)
        if not joined.isascii():
            return None
        encoded = joined.encode("ascii")
        return encoded.split(b"\n") if encoded.translate(None, KEY_ALPHABET) == b"\n" * (len(texts) - 1) else None

    def _checked(self, key: str, template: "Template") -> bytes:
        if self._can_be_key(key):
            return key.encode("ascii")
        if PRINTABLE.fullmatch(key):
            why = f"has {len(key)} bytes, 1 to {self._key_bytes} are allowed (|md5 shortens a field)"
        else:
            why = "is not printable ASCII without spaces (|quote escapes a field)"
        raise PoisonError("bad-key", f'the key {quoted(key)} of "{template.text}" {why}')
