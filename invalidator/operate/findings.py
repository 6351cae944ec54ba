"""Findings: the results of inspecting a running system, one line each, with the fix."""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct, to_builtins

from invalidator.broker.messages import UnmatchedType
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError, UnconfirmedError, UnreachableError

#: "unverified": nothing could be asked; "note": right, but worth knowing.
Level = Literal["ok", "note", "unverified", "wrong"]

#: Exit codes, the gravest first: faults that no waiting fixes, then missing parts, then unfinished work.
_GRAVEST_FIRST = (
    ConfigurationError.exit_code,
    RefusedError.exit_code,
    UnreachableError.exit_code,
    UnconfirmedError.exit_code,
)


class Finding(Struct, frozen=True):
    """The result of one inspection."""

    level: Level
    #: One word: "broker", "queue", "node" …
    what: str
    text: str
    fix: str = ""
    exit_code: int = 0


def ok(what: str, text: str) -> Finding:
    return Finding("ok", what, text)


def wrong(what: str, text: str, fix: str, *, meaning: type[InvalidatorError]) -> Finding:
    """Return something to fix. ``meaning`` is the error that a worker or command would end with."""
    return Finding("wrong", what, text, fix, meaning.exit_code)


def failed(what: str, error: InvalidatorError) -> Finding:
    """Return an error as a finding. Its message names the fix itself."""
    return Finding("wrong", what, str(error), exit_code=error.exit_code)


def alarm_in_force(alarm: str) -> Finding:
    """Return the finding for one of `Management.alarms`."""
    text = f"alarm, {alarm}: nothing can be published until it ends; evicting goes on"
    return wrong("broker", text, "rabbitmq-diagnostics alarms; free memory or disk", meaning=UnconfirmedError)


def missed_events(what: str, gap: object) -> Finding:
    """Return the finding about a gap."""
    fix = "invalidator flush, which also clears the gap; or wait until every value has expired"
    return wrong(what, f"gap {gap}; events may have been missed", fix, meaning=UnconfirmedError)


def unmatched(what: str, found: UnmatchedType) -> Finding:
    """Return the note about a type of event that no rule is on."""
    text = f'no rule is on events of type "{found.type}": they evict nothing'
    fix = f'is "{found.nearest}" meant?' if found.nearest else "write a [[rule]] if they matter to the cache"
    return Finding("note", what, text, fix)


def unnumbered(what: str, publishers: Iterable[str]) -> Finding:
    """Return the note about publishers whose losses before the log cannot be noticed."""
    names = ", ".join(name or "one without an app_id" for name in publishers)
    return Finding("note", what, f"not numbered, so losses before the log are not noticed: events of {names}")


def worst(findings: Iterable[Finding]) -> int:
    """Return the gravest exit code among the findings."""
    codes = {finding.exit_code for finding in findings}
    return next((code for code in _GRAVEST_FIRST if code in codes), 0)


def findings_as_fields(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the findings for JSON, with the fix also under its name of version 0.1, for one more release."""
    return [dict(to_builtins(finding), mend=finding.fix) for finding in findings]
