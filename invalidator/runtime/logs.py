"""Log lines with fields, through the standard library's logging.

log.warning("node unreachable", node="c1") ─> logging ─┬─> a service of ours: JSON, or columns on a terminal
                                                       └─> an application: its own handlers, the line as text
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal

#: Libraries that log at length what we log in one line.
LIBRARIES = ("aio_pika", "aiormq", "asyncio", "pika")
#: Columns for the event on a terminal, so that fields stand below each other.
EVENT_COLUMNS = 30
#: ANSI colours of the levels on a terminal.
COLOURS = {"debug": 32, "info": 32, "warning": 33, "error": 31, "critical": 31}


class Line:
    """An event and its fields; as text, for handlers that know nothing of fields, one after the other."""

    def __init__(self, event: str, fields: dict[str, Any]) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        return " ".join([self.event, *_named(self.fields)])


class Log:
    """A logger of lines with fields. The first word of a line says what happened, a field what it happened to."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, event, fields, exc_info=True)

    def _write(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Line(event, fields), exc_info=exc_info, stacklevel=3)


def set_up_logs(*, level_name: str = "info", form: Literal["auto", "console", "json"] = "auto") -> None:
    """Log to standard error; "auto" means columns on a terminal, and one JSON object a line elsewhere."""
    level = logging.getLevelName(level_name.upper())
    is_terminal = sys.stderr.isatty()
    as_json = form == "json" or (form == "auto" and not is_terminal)
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if as_json else ConsoleFormatter(colours=is_terminal and "NO_COLOR" not in os.environ)
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.DEBUG if level == logging.DEBUG else logging.CRITICAL)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, time, level and event first."""

    def format(self, record: logging.LogRecord) -> str:
        line = _line(record)
        entry = {"timestamp": _time(record), "level": record.levelname.lower(), "event": line.event} | line.fields
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class ConsoleFormatter(logging.Formatter):
    """Time, level, event and fields in columns, for a person at a terminal."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        line, level = _line(record), record.levelname.lower()
        shown = self._coloured(f"{level:<8}", COLOURS.get(level, 0))
        event = self._coloured(f"{line.event:<{EVENT_COLUMNS}}", 1)
        text = " ".join([_time(record), f"[{shown}]", event, *_named(line.fields)]).rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text

    def _coloured(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def _line(record: logging.LogRecord) -> Line:
    return record.msg if isinstance(record.msg, Line) else Line(record.getMessage(), {})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _named(fields: dict[str, Any]) -> list[str]:
    return [f"{name}={_shown(value)}" for name, value in fields.items()]


def _shown(value: Any) -> str:
    """Quote text that has spaces or bytes that a terminal would interpret."""
    is_plain = isinstance(value, str) and value.isprintable() and " " not in value and value
    return str(value) if is_plain else repr(value)
