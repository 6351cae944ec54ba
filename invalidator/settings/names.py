"""The settings by their full names, as in "broker.url", and suggestions for misspelt ones."""

from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from msgspec import Struct, ValidationError

from invalidator.errors import ConfigurationError
from invalidator.settings.schema import KEY_TEXT, LABEL, MANAGEMENT_URL, PRINTABLE, WORD, Settings

#: Human-readable descriptions of the patterns.
IN_WORDS = {
    WORD: "1 to 80 characters out of A-Z, a-z, 0-9 and . _ : -, the first one out of A-Z, a-z and 0-9",
    LABEL: "1 to 80 characters out of A-Z, a-z, 0-9 and . _ : / -",
    PRINTABLE: "printable ASCII without spaces",
    KEY_TEXT: "text without spaces and control characters",
    MANAGEMENT_URL: "http://host:15672 (or https://), without user and password",
}


def hints(section: type[Struct] = Settings, path: str = "") -> dict[str, Any]:
    """Return every setting's full name and type. Those of `[[rule]]` are named as in "rule.on"."""
    found = {}
    for field, hint in get_type_hints(section).items():
        found[f"{path}{field}"] = hint
        for inner in sections(hint):
            found |= hints(inner, f"{path}{field}.")
    return found


def sections(hint: Any) -> list[type[Struct]]:
    """Return the tables inside a field's type: `PreviousRing | None` and `list[RuleSettings]` hold one each."""
    if isinstance(hint, type) and issubclass(hint, Struct):
        return [hint]
    return [inner for argument in get_args(hint) for inner in sections(argument)]


def refuse_unknown(section: type[Struct], table: Any, where: str, path: str = "") -> None:
    """Raise ConfigurationError if a table holds a key that its section does not know."""
    if not isinstance(table, dict):
        return  # a wrong type, which msgspec reports
    known = get_type_hints(section)
    for key, value in table.items():
        name = f"{path}{key}"
        if key not in known:
            raise ConfigurationError(f'unknown setting "{name}" {where}{_nearest(key, section, path)}')
        for inner in sections(known[key]):
            for item in value if isinstance(value, list) else [value]:
                refuse_unknown(inner, item, where, f"{name}.")


def _nearest(key: str, section: type[Struct], path: str) -> str:
    """Return a hint: the same key in another table, or else a similar key, preferably in this table."""
    here = {field: f"{path}{field}" for field in get_type_hints(section)}
    # Of two settings with the same key, the first in the schema is suggested: broker.url before management.url.
    everywhere = {name.rpartition(".")[2]: name for name in reversed(hints())}
    near = [key] if key in everywhere else get_close_matches(key, here) or get_close_matches(key, everywhere)
    return (
        f': did you mean "{(everywhere | here)[near[0]]}"?'
        if near
        else f": known settings are {', '.join(here.values())}"
    )


def in_our_words(error: ValidationError, name: str = "") -> str:
    """Describe what msgspec found wrong, with the setting's full name. `name` is used if msgspec gives none."""
    text, _, path = str(error).partition(" - at ")
    for pattern, words in IN_WORDS.items():
        text = text.replace(f"matching regex {pattern!r}", f"of {words}")
    name = path.replace("`key` in ", "").strip("`").removeprefix("$").lstrip(".") or name
    if text.startswith("Invalid enum value"):
        text = f"{text}: write one of {', '.join(get_args(hints()[name]))}"
    return f'setting "{name}": {text}'
