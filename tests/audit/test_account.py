"""The account on a file: counts add up over restarts, old ones go, and what cannot be used is refused by name."""

import sqlite3
import threading
from pathlib import Path

import pytest

from invalidator.audit.account import KEPT_SECONDS, Account, AccountError, Finding, Minute, SavedAccount
from invalidator.audit.verdict import Reason, Verdict
from invalidator.errors import ConfigurationError

#: The beginning of a minute.
NOON = 1_800_000_000.0
FINDING = Finding(NOON, "product:7", "c1", 60.0, Verdict.PERMANENT, Reason.WRITTEN_BACK, repaired=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "account.sqlite"


def test_counts_add_up_by_minute_and_outlive_a_restart(path: Path) -> None:
    for _ in range(2):
        account = Account(path)
        account.count(1.0, Verdict.FRESH, at=NOON + 1)
        account.count(1.0, Verdict.ABSENT, at=NOON + 59, times=3)
        account.count(1.0, Verdict.FRESH, at=NOON + 60)
        account.listened(0.5, at=NOON)
        account.save(now=NOON + 61)
        account.close()
    saved = SavedAccount(path)
    assert [
        Minute(1.0, {Verdict.ABSENT: 6, Verdict.FRESH: 2}),
        Minute(1.0, {Verdict.FRESH: 2}),
    ] == saved.minutes(NOON)
    assert (1.0, NOON) == (saved.listened(NOON), saved.began())
    saved.close()


def test_only_what_came_since_is_returned(path: Path) -> None:
    account = Account(path)
    account.count(1.0, Verdict.FRESH, at=NOON)
    account.listened(60.0, at=NOON)
    account.save(now=NOON)
    account.close()
    saved = SavedAccount(path)
    assert ([], 0.0) == (saved.minutes(NOON + 60), saved.listened(NOON + 60))
    saved.close()


def test_the_last_findings_are_returned_the_newest_first(path: Path) -> None:
    account = Account(path)
    for number in range(3):
        account.found(FINDING._replace(key=f"product:{number}"))
    account.save(now=NOON)
    account.close()
    saved = SavedAccount(path)
    assert [FINDING._replace(key="product:2"), FINDING._replace(key="product:1")] == saved.findings(2)
    saved.close()


def test_what_is_older_than_the_week_that_is_reported_is_deleted(path: Path) -> None:
    account = Account(path)
    account.count(1.0, Verdict.FRESH, at=NOON)
    account.listened(60.0, at=NOON)
    account.save(now=NOON)
    account.save(now=NOON + KEPT_SECONDS + 61)
    account.close()
    saved = SavedAccount(path)
    assert ([], None) == (saved.minutes(0), saved.began())
    saved.close()


def test_what_could_not_be_saved_is_saved_the_next_time(path: Path) -> None:
    account = Account(path)
    account.count(1.0, Verdict.FRESH, at=NOON)
    path.chmod(0o600)
    locker = sqlite3.connect(path)
    locker.execute("DROP TABLE listened")
    with pytest.raises(AccountError, match="no such table"):
        account.save(now=NOON)
    locker.execute("CREATE TABLE listened (minute INTEGER PRIMARY KEY, seconds REAL)")
    locker.close()
    account.save(now=NOON)
    account.close()
    saved = SavedAccount(path)
    assert [Minute(1.0, {Verdict.FRESH: 1})] == saved.minutes(0)
    saved.close()


def test_counting_and_saving_in_two_threads_loses_nothing(path: Path) -> None:
    account, done = Account(path), threading.Event()

    def save() -> None:
        while not done.is_set():
            account.save(now=NOON)

    saving = threading.Thread(target=save)
    saving.start()
    for _ in range(5000):
        account.count(1.0, Verdict.FRESH, at=NOON)
    done.set()
    saving.join()
    account.save(now=NOON)
    account.close()
    saved = SavedAccount(path)
    assert [Minute(1.0, {Verdict.FRESH: 5000})] == saved.minutes(0)
    saved.close()


def is_open(path: Path) -> bool:
    return any(each.exists() and each.samefile(path) for each in Path("/proc/self/fd").iterdir())


def test_a_file_that_cannot_be_used_is_named(path: Path) -> None:
    with pytest.raises(AccountError, match=rf"{path} cannot be used .*audit\.account"):
        SavedAccount(path)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Account(path / "no" / "folder")
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Account(path)


def test_an_account_of_another_version_is_refused(path: Path) -> None:
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 9")
    file.close()
    for kind in (Account, SavedAccount):
        with pytest.raises(ConfigurationError, match="version 9, this is version 1") as refused:
            kind(path)
        assert not is_open(path), refused  # which keeps what was refused alive
