"""The number: how often the caches were wrong, from the account of `invalidator audit`, with its bound."""

import time
from contextlib import closing
from typing import Any

from msgspec import Struct, to_builtins

from invalidator.audit.account import Finding as StaleValue
from invalidator.audit.account import SavedAccount, account_of
from invalidator.audit.summary import DAY, WEEK, Line, summary_of
from invalidator.audit.verdict import Verdict
from invalidator.errors import ConfigurationError, UnconfirmedError
from invalidator.operate.findings import Finding, failed, ok, wrong
from invalidator.settings import Settings

#: Stale values that a finding names.
NAMED = 3
#: The delay of the finding: the first one of at least this many seconds.
WITHIN_SECONDS = 1.0


class Report(Struct, frozen=True):
    """The lines of a day and of a week, and the last stale values, the newest first."""

    day: list[Line]
    week: list[Line]
    stale: list[StaleValue]


def report(settings: Settings, *, limit: int) -> Report:
    """Return the report on this cluster; raise `AccountError` if it has no account here."""
    path, now = account_of(settings), time.time()
    with closing(SavedAccount(path)) as account:
        stale = account.findings(limit)
    day, week = (summary_of(path, now=now, seconds=seconds) for seconds in (DAY, WEEK))
    return Report(day, week, stale)


def as_fields(found: Report) -> dict[str, Any]:
    """Return the report for JSON."""
    fields: dict[str, Any] = to_builtins(
        {
            "day": found.day,
            "week": found.week,
            "stale": [one._asdict() for one in found.stale],
        }
    )
    for line in (*fields["day"], *fields["week"]):
        for name in ("changes", "values"):
            line[name] = dict(zip(("stale_ratio_bound", "minutes_ratio_bound"), line[name], strict=True))
    return fields


def audit_findings(settings: Settings) -> list[Finding]:
    """Return the number and the last stale values as findings; of a cluster without an account here, no finding."""
    if not account_of(settings).exists():
        return []
    try:
        found = report(settings, limit=100)
    except ConfigurationError as error:
        return [failed("audit", error)]
    since = time.time() - DAY
    permanent = [one for one in found.stale if one.at >= since and one.verdict is Verdict.PERMANENT]
    number = next((line for line in found.day if line.delay >= WITHIN_SECONDS), None)
    findings = [ok("audit", f"a day: {number}")] if number else []
    if left := [one for one in permanent if not one.repaired]:
        findings.append(wrong("audit", _in_words(left, "stays"), "invalidator audit report", meaning=UnconfirmedError))
    elif permanent:
        findings.append(Finding("note", "audit", _in_words(permanent, "stayed"), "invalidator audit report"))
    return findings


def _in_words(values: list[StaleValue], verb: str) -> str:
    named = ", ".join(f"{one.key} on {one.node} ({one.reason.value})" for one in values[:NAMED])
    removed = "" if verb == "stays" else "; removed"
    return f"stale values in a day: {len(values)}: {named}{removed}"
