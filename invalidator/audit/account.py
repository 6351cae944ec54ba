"""The account: counts of checks by minute, and the stale values found, in an SQLite file that outlives restarts.

Counts are kept in memory and saved once a second in one transaction, so a crash loses a second of them.
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from invalidator.audit.verdict import Reason, Verdict
from invalidator.errors import ConfigurationError
from invalidator.settings import Settings

#: Seconds for which counts are kept: the week that is reported, and a day.
KEPT_SECONDS = 8 * 86_400
#: Findings kept.
KEPT_FINDINGS = 10_000
#: Seconds to wait while another process has the file.
LOCK_SECONDS = 5.0
VERSION = 1

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS checks (
    minute INTEGER, delay REAL, verdict TEXT, count INTEGER, PRIMARY KEY (minute, delay, verdict)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listened (minute INTEGER PRIMARY KEY, seconds REAL);
CREATE TABLE IF NOT EXISTS findings (
    at REAL, key TEXT, node TEXT, delay REAL, verdict TEXT, reason TEXT, repaired INTEGER);
CREATE INDEX IF NOT EXISTS findings_at ON findings (at);
CREATE TABLE IF NOT EXISTS feeds (description TEXT);
PRAGMA user_version = {VERSION};
"""


def account_of(settings: Settings) -> Path:
    """Return the file of a cluster's account."""
    return Path(settings.audit.account or f"/var/lib/invalidator-audit-{settings.cluster}/account.sqlite")


class Finding(NamedTuple):
    """A stale value that was found."""

    #: UNIX time.
    at: float
    key: str
    node: str
    #: Seconds after the change.
    delay: float
    verdict: Verdict
    reason: Reason
    #: True if it was removed.
    repaired: bool


class Minute(NamedTuple):
    """The checks of one delay in one minute, by verdict."""

    delay: float
    counts: dict[Verdict, int]


class Account:
    """The file, open for the one auditor that writes it."""

    def __init__(self, path: Path, *, fed_by: str = "") -> None:
        """Open the file, and make it if it is missing; `fed_by` describes where the changes come from.

        Raises:
            AccountError: it cannot be written, or is no account of this version.
        """
        self._lock = threading.Lock()
        self._checks: Counter[tuple[int, float, Verdict]] = Counter()
        self._listened: Counter[int] = Counter()
        self._findings: list[Finding] = []
        with _errors(path):
            # Saving may go on in another thread; the lock keeps it to one at a time.
            self._file = sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False)
            with _closed_if_it_fails(self._file):
                _check_version(self._file, path)
                self._file.executescript(SCHEMA)
                with self._file:
                    self._file.execute("DELETE FROM feeds")
                    self._file.execute("INSERT INTO feeds VALUES (?)", (fed_by,))
        self._path = path

    def count(self, delay: float, verdict: Verdict, *, at: float, times: int = 1) -> None:
        """Count a check."""
        with self._lock:
            self._checks[int(at // 60), delay, verdict] += times

    def listened(self, seconds: float, *, at: float) -> None:
        """Count seconds in which changes were received."""
        with self._lock:
            self._listened[int(at // 60)] += seconds  # type: ignore[assignment]  # a float counts as well

    def found(self, finding: Finding) -> None:
        """Keep a finding."""
        with self._lock:
            self._findings.append(finding)

    def save(self, *, now: float) -> None:
        """Write everything that was counted, and delete what is old. Nothing is lost if it fails.

        Raises:
            AccountError: the file cannot be written.
        """
        with self._lock, _errors(self._path), self._file:
            self._file.executemany(
                "INSERT INTO checks VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [(minute, delay, verdict.value, count) for (minute, delay, verdict), count in self._checks.items()],
            )
            self._file.executemany(
                "INSERT INTO listened VALUES (?, ?) ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds",
                list(self._listened.items()),
            )
            self._file.executemany(
                "INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*one[:4], one.verdict.value, one.reason.value, one.repaired) for one in self._findings],
            )
            self._delete_old(now - KEPT_SECONDS)
            self._file.commit()
            self._checks.clear()
            self._listened.clear()
            self._findings.clear()

    def close(self) -> None:
        """Close the file; what was not saved is lost."""
        self._file.close()

    def _delete_old(self, before: float) -> None:
        for table in ("checks", "listened"):
            self._file.execute(f"DELETE FROM {table} WHERE minute < ?", (before // 60,))  # noqa: S608  our own names
        self._file.execute(
            "DELETE FROM findings WHERE rowid <= (SELECT max(rowid) FROM findings) - ?", (KEPT_FINDINGS,)
        )


class AccountError(ConfigurationError):
    """Raised when the account cannot be read or written."""


class SavedAccount:
    """The file, open to be read while an auditor writes it."""

    def __init__(self, path: Path) -> None:
        """Open the file; raise `AccountError` if it is missing, or is no account of this version."""
        self._path = path
        with _errors(path):
            self._file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCK_SECONDS)
            with _closed_if_it_fails(self._file):
                _check_version(self._file, path)

    def minutes(self, since: float) -> list[Minute]:
        """Return the checks of each minute and delay from this UNIX time on."""
        by_minute: dict[tuple[int, float], dict[Verdict, int]] = {}
        for minute, delay, verdict, count in self._rows(
            "SELECT minute, delay, verdict, count FROM checks WHERE minute >= ? ORDER BY minute, delay", since // 60
        ):
            by_minute.setdefault((minute, delay), {})[Verdict(verdict)] = count
        return [Minute(delay, counts) for (_, delay), counts in by_minute.items()]

    def listened(self, since: float) -> float:
        """Return the seconds in which changes were received, from this UNIX time on."""
        ((seconds,),) = self._rows("SELECT coalesce(sum(seconds), 0) FROM listened WHERE minute >= ?", since // 60)
        return float(seconds)

    def began(self) -> float | None:
        """Return the UNIX time of the first minute that is still kept."""
        ((minute,),) = self._rows("SELECT min(minute) FROM listened")
        return None if minute is None else minute * 60.0

    def fed_by(self) -> str:
        """Return the description of where the changes come from."""
        ((description,),) = self._rows("SELECT description FROM feeds")
        return str(description)

    def findings(self, limit: int) -> list[Finding]:
        """Return the last findings, the newest first."""
        rows = self._rows(
            "SELECT at, key, node, delay, verdict, reason, repaired FROM findings ORDER BY rowid DESC LIMIT ?", limit
        )
        return [
            Finding(at, key, node, delay, Verdict(verdict), Reason(reason), bool(repaired))
            for at, key, node, delay, verdict, reason, repaired in rows
        ]

    def close(self) -> None:
        self._file.close()

    def _rows(self, query: str, *arguments: float) -> list[Any]:
        with _errors(self._path):
            return self._file.execute(query, arguments).fetchall()


def _check_version(file: sqlite3.Connection, path: Path) -> None:
    ((version,),) = file.execute("PRAGMA user_version").fetchall()
    if version not in (0, VERSION):
        raise AccountError(f"{path} is an account of version {version}, this is version {VERSION}: move it away")


@contextmanager
def _closed_if_it_fails(file: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise AccountError(f"the account {path} cannot be used ({error}): audit.account names the file") from error
