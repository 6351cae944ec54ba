"""Options that several commands share: the configuration, the output format, an event's fields."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import msgspec

from invalidator.settings import Settings
from invalidator.settings.loading import SYSTEM_FILE

from .output import note

Command = Callable[..., Any]

#: The places of a configuration file, the first that exists.
SEARCHED = f"--config, $INVALIDATOR_CONFIG, ./invalidator.toml, {SYSTEM_FILE}"

#: The units of a duration before now.
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
#: The heading of examples in a help text. Click must not join their lines.
EXAMPLES = "\b\nExamples:\n"

#: The syntax of fields, for the help of the commands that take them.
FIELDS_HELP = """\b
Fields:
  NAME=TEXT     a string, always: id=007 stays "007"
  NAME:=JSON    anything else: price:=9.99  tags:='["red", "blue"]'  stock:=null
  a.b=TEXT      a field inside an object, as rules write it
"""


class Field(NamedTuple):
    """One ``NAME=TEXT`` or ``NAME:=JSON``, taken apart."""

    path: tuple[str, ...]
    text: str
    is_json: bool


def config_option(command: Command) -> Command:
    """Add ``--config FILE``, a `Path` or None. Without it, `invalidator.settings.find` finds the file."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Settings in TOML; else $INVALIDATOR_CONFIG, ./invalidator.toml, {SYSTEM_FILE}.",
    )(command)


def output_option(command: Command) -> Command:
    """Add ``-o text|json``, passed on as ``as_json``."""
    return click.option(
        "-o",
        "--output",
        "as_json",
        type=click.Choice(["text", "json"]),
        default="text",
        callback=lambda _, __, value: value == "json",
        help="The format: text for people, JSON for programs.",
    )(command)


def fields_argument(command: Command) -> Command:
    """Add ``FIELD=VALUE …``, passed on as a list of `Field`."""

    def parse(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[Field]:
        return [parse_field(value) for value in values]

    return click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...", callback=parse)(command)


def parse_field(argument: str) -> Field:
    """Return the field that an argument describes, or raise `click.UsageError`."""
    match = re.fullmatch(r"(?P<name>[^=:][^=]*?)(?P<json>:)?=(?P<text>.*)", argument, re.DOTALL)
    path = tuple(match["name"].split(".")) if match else ()
    if not match or not all(path):
        raise click.UsageError(f"{argument!r} is not a field: write NAME=TEXT or NAME:=JSON")
    return Field(path, match["text"], bool(match["json"]))


def event_fields(fields: Iterable[Field], number: int | None = None) -> dict[str, Any]:
    """Return the object that fields describe. With ``number``, it replaces each ``{n}`` in a value.

    Raises:
        click.UsageError: a value is not valid JSON, or a field is given twice.
    """
    event: dict[str, Any] = {}
    for field in fields:
        text = field.text if number is None else field.text.replace("{n}", str(number))
        _put(event, field, _json(field, text) if field.is_json else text)
    return event


def load_settings(config: Path | None) -> Settings:
    """Load the settings, and limit the log to errors: a command prints itself what it does."""
    from invalidator import settings
    from invalidator.runtime.logs import set_up_logs

    if settings.find(config) is None:
        note(f"no configuration file ({SEARCHED}): using the defaults and the environment")
    loaded = settings.load(config)
    set_up_logs(level_name="error", form="console")
    return loaded


def numbered_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, with their numbers, without line ends."""
    for number, line in enumerate(stream, start=1):
        if line := line.rstrip(b"\r\n"):
            yield number, line


def _json(field: Field, text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        name = ".".join(field.path)
        raise click.UsageError(f"{name}:={text} is not JSON ({error}): write {name}=… for a string") from None


def _put(event: dict[str, Any], field: Field, value: Any) -> None:
    *outer, name = field.path
    table = event
    for key in outer:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise _twice(field)
        table = inner
    if name in table:
        raise _twice(field)
    table[name] = value


def _twice(field: Field) -> click.UsageError:
    name = ".".join(field.path)
    return click.UsageError(f"the field {name} is given twice; a list is one field: {name}:='[1, 2]'")


def moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Return a time in ISO 8601, UTC if it names no zone, or a duration before now."""
    if value is None:
        return None
    if ago := re.fullmatch(r"(\d+)([smhd])", value):
        return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        fix = "give a time like 2026-05-17T09:00, or a duration like 90m"
        raise click.BadParameter(f'"{value}" is no time: {fix}') from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
