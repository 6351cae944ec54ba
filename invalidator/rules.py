"""What an event means for the cache: key templates, compiled once, event -> keys.

    on = "product_updated"    evict = ["product:{id}", "category:{before.category_id?}:listing", "tag:{tags|lower}"]

    {field}         a string or a whole number of the event; a list gives one key for each of its items
    {outer.inner}   a field inside an object
    {field?}        where it is missing or null, this template gives no key
    {field|lower}   through a filter: quote (percent-encoding), lower, md5, sha256; several: {name|lower|md5}
    {{ and }}       braces

Rules of this file:

1. A key is never cleaned: a cleaned key is a different key. What cannot be a key makes its event poison.
2. What leaves here is 1 to 250 bytes of printable ASCII without spaces, the prefix counted: no byte of an event can
   end a memcached command.
3. How many keys a template gives is known, and refused if too many, before the first is built.
4. A field that stands twice in one template is one field: `{ids|md5}:{ids}` pairs each item with itself. Different
   lists are combined each with each.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events import EVICT, Event, kind, quoted

#: Bytes of a key, its prefix included (memcached's protocol.txt).
KEY_BYTES = 250

FILTERS: dict[str, Callable[[str], str]] = {
    "quote": lambda text: quote(text, safe=""),
    "lower": str.lower,
    "md5": lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}

_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<inside>[^{}]*)\}|(?P<literal>[^{}]+)")
_INSIDE = re.compile(r"(?P<path>{0}(?:\.{0})*)(?P<optional>\?)?(?P<filters>(?:\|\w*)*)".format(r"[^\W\d][\w-]*"))
_PRINTABLE = re.compile(r"[\x21-\x7e]*")

#: All bytes that may be in a key.
_KEY_BYTES = bytes(range(0x21, 0x7F))

#: Numbers beyond this are written out the slow way, which knows what is too long.
_LARGE = 10**18

_Build = Callable[[dict[str, Any]], Iterable[str]]
_ShortCut = Callable[[dict[str, Any]], bytes | None]


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
        if len(prefix) >= KEY_BYTES or not _PRINTABLE.fullmatch(prefix):
            raise ConfigurationError(
                f"the key prefix {quoted(prefix)} must be short and printable ASCII without spaces"
            )
        self._event_keys = event_keys
        self._key_bytes = KEY_BYTES - len(prefix)
        self._can_be_key = re.compile(rf"[\x21-\x7e]{{1,{self._key_bytes}}}").fullmatch
        self._templates = {
            EVICT: [_Template(text=f"{EVICT} (built in)", build=_named_keys(event_keys), short_cut=_no_short_cut)]
        }
        for number, (on, templates) in enumerate(rules, start=1):
            self._add(on, templates, f'rule {number} (on "{on}")')

    def _add(self, on: str, templates: Sequence[str], where: str) -> None:
        if on == EVICT:
            raise ConfigurationError(f"{where}: this event is built in and evicts the keys it names; use another type")
        compiled = self._templates.setdefault(on, [])
        for template in templates:
            try:
                compiled.append(_compile(template, self._key_bytes, self._event_keys))
            except _TemplateError as error:
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
                    raise _too_many(len(keys), self._event_keys, template.text)
        return keys if len(keys) == 1 else list(dict.fromkeys(keys))

    def explain(self, event: Event) -> list[tuple[str, list[bytes]]]:
        """Each template of the event's type with the keys it gives; raises as `keys` does."""
        self.keys(event)
        return [(template.text, self._keys(template, event)) for template in self._templates.get(event.type, ())]

    def _keys(self, template: "_Template", event: Event) -> list[bytes]:
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
        return encoded.split(b"\n") if encoded.translate(None, _KEY_BYTES) == b"\n" * (len(texts) - 1) else None

    def _checked(self, key: str, template: "_Template") -> bytes:
        if self._can_be_key(key):
            return key.encode("ascii")
        if _PRINTABLE.fullmatch(key):
            why = f"has {len(key)} bytes, 1 to {self._key_bytes} are allowed (|md5 shortens a field)"
        else:
            why = "is not printable ASCII without spaces (|quote escapes a field)"
        raise PoisonError("bad-key", f'the key {quoted(key)} of "{template.text}" {why}')


class _Template(Struct, frozen=True):
    text: str
    #: The object of an event -> the keys, not yet checked.
    build: _Build
    #: The object of an event -> the key, checked but for its length, in the commonest case; else None.
    short_cut: "_ShortCut"


class _Slot(Struct, frozen=True):
    """One placeholder."""

    path: tuple[str, ...]
    optional: bool
    filters: tuple[Callable[[str], str], ...]

    def filtered(self, value: str) -> str:
        for apply in self.filters:
            value = apply(value)
        return value


class _TemplateError(Exception):
    def __init__(self, at: int, what: str) -> None:
        super().__init__(f"column {at + 1}: {what}")


def _compile(text: str, key_bytes: int, limit: int) -> _Template:
    form, slots, at = "", [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            raise _TemplateError(at, f'"{text[at]}" has no partner: close the placeholder, or write "{text[at] * 2}"')
        if token["inside"] is None:
            form += _literal(token["brace"][0] if token["brace"] else token["literal"], at).replace("%", "%%")
        else:
            form += "%s"
            slots.append(_slot(token["inside"], at))
        at = token.end()
    shortest = len(form % (("",) * len(slots)))
    if not text or shortest > key_bytes:
        raise _TemplateError(0, f"a key has 1 to {key_bytes} bytes, these have {shortest} before any field")
    return _Template(text=text, build=_builder(text, form, slots, limit), short_cut=_short_cut(form, slots))


def _literal(text: str, at: int) -> str:
    printable = _PRINTABLE.match(text)
    assert printable is not None  # it matches "" too
    if printable.end() < len(text):
        wrong = text[printable.end()]
        raise _TemplateError(at + printable.end(), f"{wrong!r} cannot be in a key: printable ASCII, no spaces")
    return text


def _slot(inside: str, at: int) -> _Slot:
    match = _INSIDE.fullmatch(inside)
    if not match:
        raise _TemplateError(
            at, f'"{{{inside}}}" is no placeholder: write {{field}}, {{outer.inner}}, {{field?}} or {{field|filter}}'
        )
    names = match["filters"].split("|")[1:]
    for name in names:
        if name not in FILTERS:
            raise _TemplateError(at, f'unknown filter "{name}" in "{{{inside}}}": there are {", ".join(FILTERS)}')
    filters = tuple(FILTERS[name] for name in names)
    return _Slot(path=tuple(match["path"].split(".")), optional=bool(match["optional"]), filters=filters)


def _builder(text: str, form: str, slots: Sequence[_Slot], limit: int) -> _Build:
    """The function that fills `form`, one %s a slot, from an event's object."""
    paths = list(dict.fromkeys(slot.path for slot in slots))
    optional = [any(slot.optional for slot in slots if slot.path == path) for path in paths]
    columns = [(paths.index(slot.path), slot) for slot in slots]

    def build(fields: dict[str, Any]) -> Iterable[str]:
        values = [_at(path, fields) for path in paths]
        if any(value is None and may_miss for value, may_miss in zip(values, optional, strict=True)):
            return ()
        lists = [_texts(*each, limit) for each in zip(paths, values, optional, strict=True)]
        if (count := math.prod(map(len, lists))) > limit:
            raise _too_many(count, limit, text)
        return [form % tuple(slot.filtered(row[at]) for at, slot in columns) for row in itertools.product(*lists)]

    return build


def _short_cut(form: str, slots: Sequence[_Slot]) -> _ShortCut:
    """For the commonest case: the template's only field is a plain string or a number that is not large."""
    if len(slots) != 1 or len(slots[0].path) != 1 or slots[0].filters:
        return _no_short_cut
    name = slots[0].path[0]
    pattern = form.encode("ascii")

    def key(fields: dict[str, Any]) -> bytes | None:
        value = fields.get(name)
        if value.__class__ is int:  # not bool, which is an int
            return pattern % (b"%d" % value) if -_LARGE < value < _LARGE else None
        if value.__class__ is str and value.isascii() and value.isprintable() and " " not in value:
            return pattern % value.encode("ascii") or None
        return None

    return key


def _no_short_cut(_: dict[str, Any]) -> None:
    return None


def _at(path: tuple[str, ...], fields: dict[str, Any]) -> Any:
    """The value at a path; None where it, or an object on the way to it, is missing or null."""
    value: Any = fields
    for depth, name in enumerate(path):
        if not isinstance(value, dict):
            raise PoisonError("wrong-type", f'the field "{".".join(path[:depth])}" is {kind(value)}, not an object')
        if (value := value.get(name)) is None:
            return None
    return value


def _texts(path: tuple[str, ...], value: Any, optional: bool, limit: int) -> list[str]:
    """A field's value, or each item's where it is a list, as text."""
    items = value if isinstance(value, list) else [value]
    if len(items) > limit:
        raise _too_many(len(items), limit, ".".join(path))
    return [_text(path, item) for item in items if not (optional and item is None)]


def _text(path: tuple[str, ...], value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    name = ".".join(path)
    if value is None:
        raise PoisonError("missing-field", f'the field "{name}" is missing or null ({{{name}?}} would allow it)')
    raise PoisonError("wrong-type", f'"{name}" is or holds {kind(value)}: keys are made of strings and whole numbers')


def _named_keys(limit: int) -> _Build:
    """The built-in template: an event that names its keys itself."""

    def build(fields: dict[str, Any]) -> Iterable[str]:
        keys = fields.get("keys")
        if keys is None:
            raise PoisonError("missing-field", f'the field "keys" is missing: a {EVICT} event lists its keys there')
        if not isinstance(keys, list):
            raise PoisonError("wrong-type", f'the field "keys" is {kind(keys)}, not a list of strings')
        if len(keys) > limit:
            raise _too_many(len(keys), limit, "keys")
        if set(map(type, keys)) - {str}:
            wrong = next(key for key in keys if not isinstance(key, str))
            raise PoisonError("wrong-type", f'the field "keys" holds {kind(wrong)}: write keys as strings')
        return keys

    return build


def _too_many(count: int, limit: int, where: str) -> PoisonError:
    return PoisonError(
        "too-many-keys", f'"{where}" brings the event to {count} keys, {limit} are allowed (limits.event_keys)'
    )
