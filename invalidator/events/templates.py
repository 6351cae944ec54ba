"""Key templates, compiled once into functions from an event's object to keys.

    {field}         a string or a whole number of the event; a list gives one key for each of its items
    {outer.inner}   a field inside an object
    {field?}        an optional field: if it is missing or null, this template gives no key
    {field|lower}   a filter: quote (percent-encoding), lower, md5, sha256; filters chain: {name|lower|md5}
    {{ and }}       braces

Rules of this file:

1. The keys of a template are counted, and refused if there are too many, before the first one is built.
2. A field that appears twice in one template is one field: `{ids|md5}:{ids}` pairs each item with itself. Different
   lists are combined, every item with every item.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from invalidator.errors import PoisonError
from invalidator.events.event import EVICT
from invalidator.events.quoting import kind

FILTERS: dict[str, Callable[[str], str]] = {
    "quote": lambda text: quote(text, safe=""),
    "lower": str.lower,
    "md5": lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}

#: Characters that no key may hold: memcached forbids control characters and spaces.
FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f]")

_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<inside>[^{}]*)\}|(?P<literal>[^{}]+)")
_INSIDE = re.compile(r"(?P<path>{0}(?:\.{0})*)(?P<optional>\?)?(?P<filters>(?:\|\w*)*)".format(r"[^\W\d][\w-]*"))

#: Filter -> pattern of its output.
_SHAPES = {"md5": "[0-9a-f]{32}", "sha256": "[0-9a-f]{64}", "quote": "[A-Za-z0-9_.~%-]+"}

#: Python refuses to print numbers of more than 4,300 digits; a database's are smaller than this one.
SMALL = 10**20

#: An event's object -> its keys, as text and not yet checked.
Build = Callable[[dict[str, Any]], list[str]]


class Plain(Struct, frozen=True):
    """A template that is a single unfiltered field, with the text before and after it."""

    field: str
    before: str
    after: str


class Template(Struct, frozen=True):
    """A template, compiled."""

    text: str
    build: Build
    plain: Plain | None = None
    #: The fields that it names.
    paths: tuple[tuple[str, ...], ...] = ()


class _Slot(Struct, frozen=True):
    """One placeholder."""

    path: tuple[str, ...]
    optional: bool
    filters: tuple[Callable[[str], str], ...]

    def filtered(self, value: str) -> str:
        for apply in self.filters:
            value = apply(value)
        return value


class TemplateError(Exception):
    """Raised when a template can never work; the message gives the column and the reason."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(f"column {at + 1}: {what}")


def compile_template(text: str, key_bytes: int, limit: int) -> Template:
    form, slots, at = "", [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            raise TemplateError(at, f'"{text[at]}" has no partner: close the placeholder, or write "{text[at] * 2}"')
        if token["inside"] is None:
            form += _literal(token["brace"][0] if token["brace"] else token["literal"], at).replace("%", "%%")
        else:
            form += "%s"
            slots.append(_slot(token["inside"], at))
        at = token.end()
    shortest = len((form % (("",) * len(slots))).encode())
    if not text or shortest > key_bytes:
        raise TemplateError(0, f"a key has 1 to {key_bytes} bytes, these have {shortest} before any field")
    plain = None
    if len(slots) == 1 and len(slots[0].path) == 1 and not slots[0].filters:
        before, after = (form % "\0").split("\0")
        plain = Plain(slots[0].path[0], before, after)
    paths = tuple(dict.fromkeys(slot.path for slot in slots))
    return Template(text=text, build=_builder(text, form, slots, limit), plain=plain, paths=paths)


def short_cut(templates: Sequence[Template], limit: int, build: Build) -> Build:
    """Return a quicker equivalent of `build`, which fills in all of these templates, or `build` itself.

    Most rules are plain templates of one field, and most events have a string, a number or a list of strings there.
    """
    plain = [template.plain for template in templates if template.plain]
    if len(plain) < len(templates) or len({each.field for each in plain}) != 1 or len(plain) > limit:
        return build
    return _filling_one_field(plain, limit // len(plain), build)


def _filling_one_field(plain: Sequence[Plain], most: int, build: Build) -> Build:
    """Return the function that fills in plain templates of one field, and leaves more than `most` items to `build`."""
    name = plain[0].field
    ends = [(each.before, each.after) for each in plain]

    def quicker(fields: dict[str, Any]) -> list[str]:
        value = fields.get(name)
        if value.__class__ is str and value:
            return [before + value + after for before, after in ends]
        if value.__class__ is int and -SMALL < value < SMALL:  # `isinstance` would let bool in
            return [f"{before}{value}{after}" for before, after in ends]
        if value.__class__ is list and len(value) <= most and set(map(type, value)) == {str} and all(value):
            return [before + item + after for before, after in ends for item in value]
        return build(fields)

    return quicker


def fields_making(text: str, key: str, *, shortest_first: bool = False) -> dict[str, str] | None:
    """Return the filtered fields with which a template makes this key, or None if it cannot make it.

    If several answers are possible, as for "a-b-c" and "{x}-{y}", it is the one with the longest first field, or with
    the shortest one. Of answers with the same first field the second one decides, and so on.
    """
    pattern, names, few = "", dict[str, str](), "?" if shortest_first else ""
    for token in _TOKEN.finditer(text):
        inside = token["inside"]
        if inside is None:
            pattern += re.escape(token["brace"][0] if token["brace"] else token["literal"])
        elif inside in names:
            pattern += f"(?P={names[inside]})"
        else:
            names[inside] = f"f{len(names)}"
            shape = _SHAPES.get(inside.rpartition("|")[2], ".+")
            pattern += f"(?P<{names[inside]}>{shape}{few if shape.endswith('+') else ''})"
    made = re.fullmatch(pattern, key)
    return {inside: made[name] for inside, name in names.items()} if made else None


def _literal(text: str, at: int) -> str:
    if wrong := FORBIDDEN.search(text):
        raise TemplateError(at + wrong.start(), f"{wrong[0]!r} cannot be in a key: no spaces or control characters")
    return text


def _slot(inside: str, at: int) -> _Slot:
    match = _INSIDE.fullmatch(inside)
    if not match:
        raise TemplateError(
            at, f'"{{{inside}}}" is not a placeholder: write {{field}}, {{outer.inner}}, {{field?}} or {{field|filter}}'
        )
    names = match["filters"].split("|")[1:]
    for name in names:
        if name not in FILTERS:
            raise TemplateError(at, f'unknown filter "{name}" in "{{{inside}}}": the filters are {", ".join(FILTERS)}')
    filters = tuple(FILTERS[name] for name in names)
    return _Slot(path=tuple(match["path"].split(".")), optional=bool(match["optional"]), filters=filters)


def _builder(text: str, form: str, slots: Sequence[_Slot], limit: int) -> Build:
    """Return the function that fills `form`, which has one %s for each slot, from an event's object."""
    paths = list(dict.fromkeys(slot.path for slot in slots))
    optional = [any(slot.optional for slot in slots if slot.path == path) for path in paths]
    columns = [(paths.index(slot.path), slot) for slot in slots]

    def build(fields: dict[str, Any]) -> list[str]:
        values = [_at(path, fields) for path in paths]
        if any(value is None and may_miss for value, may_miss in zip(values, optional, strict=True)):
            return []
        lists = [_texts(*each, limit) for each in zip(paths, values, optional, strict=True)]
        if (count := math.prod(map(len, lists))) > limit:
            raise too_many(count, limit, text)
        return [form % tuple(slot.filtered(row[at]) for at, slot in columns) for row in itertools.product(*lists)]

    return build


def _at(path: tuple[str, ...], fields: dict[str, Any]) -> Any:
    """Return the value at a path, or None if it or an object on the way to it is missing or null."""
    value: Any = fields
    for depth, name in enumerate(path):
        if not isinstance(value, dict):
            raise PoisonError("wrong-type", f'the field "{".".join(path[:depth])}" is {kind(value)}, not an object')
        if (value := value.get(name)) is None:
            return None
    return value


def _texts(path: tuple[str, ...], value: Any, optional: bool, limit: int) -> list[str]:
    """Return a field's value as text, in a list of one; for a list, each item as text."""
    items = value if isinstance(value, list) else [value]
    if len(items) > limit:
        raise too_many(len(items), limit, ".".join(path))
    return [_text(path, item) for item in items if not (optional and item is None)]


def _text(path: tuple[str, ...], value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value:
        return value
    name = ".".join(path)
    if value == "":
        raise PoisonError("bad-key", f'the field "{name}" is or holds an empty string, which names nothing')
    if value is None:
        raise PoisonError("missing-field", f'the field "{name}" is missing or null ({{{name}?}} would allow it)')
    raise PoisonError("wrong-type", f'"{name}" is or holds {kind(value)}: keys are made of strings and whole numbers')


def named_keys(limit: int) -> Build:
    """Return the built-in template, for an event that lists its keys itself."""

    def build(fields: dict[str, Any]) -> list[str]:
        keys = fields.get("keys")
        if keys is None:
            raise PoisonError("missing-field", f'the field "keys" is missing: a {EVICT} event lists its keys there')
        if not isinstance(keys, list):
            raise PoisonError("wrong-type", f'the field "keys" is {kind(keys)}, not a list of strings')
        if len(keys) > limit:
            raise too_many(len(keys), limit, "keys")
        if set(map(type, keys)) - {str}:
            wrong = next(key for key in keys if not isinstance(key, str))
            raise PoisonError("wrong-type", f'the field "keys" holds {kind(wrong)}: write keys as strings')
        return keys

    return build


def too_many(count: int, limit: int, where: str) -> PoisonError:
    return PoisonError(
        "too-many-keys", f'"{where}" brings the event to {count} keys, {limit} are allowed (limits.event_keys)'
    )
