"""Environment variables that override the file: INVALIDATOR_SECTION__KEY=value, with lists and tables as JSON."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from invalidator.errors import ConfigurationError
from invalidator.settings.names import in_our_words, refuse_unknown, sections
from invalidator.settings.schema import Secret, Settings

ENVIRONMENT_PREFIX = "INVALIDATOR_"
#: Variables with our prefix that are not settings.
NOT_SETTINGS = {"INVALIDATOR_CONFIG", "INVALIDATOR_REQUIRE"}

#: Variables that Kubernetes sets in every container of a namespace for a service called "invalidator" or
#: "invalidator-…" (service links), each with the form of its value. No setting's variable looks like these.
_SERVICE = r"INVALIDATOR(?:_[A-Z0-9]+)*"
_SERVICE_LINKS = (
    (rf"{_SERVICE}_SERVICE_HOST", r"[0-9A-Fa-f.:]+"),
    (rf"{_SERVICE}_SERVICE_PORT(?:_[A-Z0-9]+)*", r"\d+"),
    (rf"{_SERVICE}_PORT(?:_\d+_(?:TCP|UDP|SCTP))?", r"(?:tcp|udp|sctp)://\S+"),
    (rf"{_SERVICE}_PORT_\d+_(?:TCP|UDP|SCTP)_PORT", r"\d+"),
    (rf"{_SERVICE}_PORT_\d+_(?:TCP|UDP|SCTP)_PROTO", r"tcp|udp|sctp"),
    (rf"{_SERVICE}_PORT_\d+_(?:TCP|UDP|SCTP)_ADDR", r"[0-9A-Fa-f.:]+"),
)


def override(tables: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Apply the environment to `tables`. Raises ConfigurationError for a variable that sets nothing."""
    known = _variables()
    for variable, value in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in NOT_SETTINGS:
            continue
        *outer, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if variable not in known and _is_service_link(variable, value):
            continue
        if variable not in known:
            raise _unknown_variable(variable, ".".join([*outer, key]), known)
        table: Any = tables
        for name in outer:
            table = table.setdefault(name, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):  # otherwise the file has a wrong type there, which msgspec reports
            table[key] = _from_text(value, known[variable], variable)
            refuse_unknown(Settings, tables, f"in the environment variable {variable}")


def _variables(section: type[Struct] = Settings, prefix: str = ENVIRONMENT_PREFIX) -> dict[str, Any]:
    """Return every variable that overrides a setting, with the setting's type. A table is set key by key."""
    variables: dict[str, Any] = {}
    for field, hint in get_type_hints(section).items():
        if sections(hint) and get_origin(hint) is not list:
            for inner in sections(hint):
                variables |= _variables(inner, f"{prefix}{field.upper()}__")
        else:
            variables[f"{prefix}{field.upper()}"] = hint
    return variables


def _is_service_link(variable: str, value: str) -> bool:
    return any(re.fullmatch(name, variable) and re.fullmatch(form, value) for name, form in _SERVICE_LINKS)


def _unknown_variable(variable: str, name: str, known: Iterable[str]) -> ConfigurationError:
    inside = [other for other in known if other.startswith(f"{variable}__")]
    rest = get_close_matches(
        variable.removeprefix(ENVIRONMENT_PREFIX), [other.removeprefix(ENVIRONMENT_PREFIX) for other in known], n=1
    )
    close = inside or [f"{ENVIRONMENT_PREFIX}{other}" for other in rest]
    hint = f": did you mean {close[0]}?" if close else ": write INVALIDATOR_SECTION__KEY, as in INVALIDATOR_BROKER__URL"
    return ConfigurationError(f'unknown setting "{name}" in the environment variable {variable}{hint}')


def _from_text(value: str, hint: Any, variable: str) -> Any:
    """Convert a variable's text to its setting's type. Lists and tables are JSON."""
    origins = {get_origin(part) or part for part in (get_args(hint) if _is_union(hint) else (hint,))}
    if origins & {list, dict}:
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigurationError(f'{variable} must be JSON, as in ["127.0.0.1:11211"]: {error}') from error
    if Secret in origins:
        return value
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        what = in_our_words(error, name).removesuffix(", got `str`")
        raise ConfigurationError(f'environment variable {variable}="{value}": {what}') from error


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)
