"""What a look at a running system finds: one line each, and what to do about it."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError, UnconfirmedError, UnreachableError

#: "unverified": nobody could be asked; "note": right, but worth knowing.
Level = Literal["ok", "note", "unverified", "wrong"]

#: Exit codes, the gravest first: what no waiting fixes, then what is not there, then what waits.
_GRAVEST_FIRST = (
    ConfigurationError.exit_code,
    RefusedError.exit_code,
    UnreachableError.exit_code,
    UnconfirmedError.exit_code,
)


class Finding(Struct, frozen=True):
    """One thing looked at."""

    level: Level
    #: A word: "broker", "queue", "node" …
    what: str
    text: str
    #: What to do about it.
    fix: str = ""
    exit_code: int = 0


def ok(what: str, text: str) -> Finding:
    return Finding("ok", what, text)


def wrong(what: str, text: str, fix: str, *, meaning: type[InvalidatorError]) -> Finding:
    """Something to fix; ``meaning`` is the error that a worker or command would end with."""
    return Finding("wrong", what, text, fix, meaning.exit_code)


def failed(what: str, error: InvalidatorError) -> Finding:
    """An error as a finding; its message names the fix itself."""
    return Finding("wrong", what, str(error), exit_code=error.exit_code)


def alarm_in_force(alarm: str) -> Finding:
    """An alarm as `Management.alarms` tells it."""
    text = f"alarm, {alarm}: nobody can publish until it ends; evicting goes on"
    return wrong("broker", text, "rabbitmq-diagnostics alarms; free memory or disk", meaning=UnconfirmedError)


def worst(findings: Iterable[Finding]) -> int:
    """The exit code that says most."""
    codes = {finding.exit_code for finding in findings}
    return next((code for code in _GRAVEST_FIRST if code in codes), 0)
