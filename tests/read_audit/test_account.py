"""The account of a process: its counts and bound, each stale key named once."""

from collections import Counter

from prometheus_client import REGISTRY

from invalidator.app.cache.audit import account as module
from invalidator.app.cache.audit.account import KEPT_SECONDS, Account, Audited
from invalidator.app.cache.audit.comparison import AuditOutcome
from invalidator.bound import Block, Bound, bound
from tests.logs import capture_logs

FRESH, GONE, STALE, UNDECIDED = AuditOutcome


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(account: Account, *outcomes: AuditOutcome) -> Audited:
    for outcome in outcomes:
        account.count("product:1", outcome)
    return account.audited()


def test_nothing_is_known_before_anything_was_compared() -> None:
    assert Audited(0, 0, 0, Bound(1.0, 1.0)) == Account().audited()
    assert "at least 0.0 nines of reads: 0 compared, 0 stale, 0 undecided" == str(Account().audited())


def test_undecided_hits_prove_nothing_and_the_others_bound_the_rate_by_minute() -> None:
    clock = Clock()
    account = Account(clock=clock)
    counted(account, FRESH, FRESH, GONE, UNDECIDED)
    clock.now = 60.0
    expected = Audited(6, 1, 2, bound([Block(3, 0), Block(3, 1)]))
    assert expected == counted(account, FRESH, STALE, GONE, UNDECIDED)


def test_counts_of_a_day_ago_are_forgotten() -> None:
    clock = Clock()
    account = Account(clock=clock)
    counted(account, STALE)
    clock.now = KEPT_SECONDS + 60.0
    assert (1, 0) == counted(account, FRESH)[:2]


def test_many_fresh_hits_make_many_nines() -> None:
    account = Account()
    account._minutes = {0: Counter({FRESH: 3000})}
    assert "at least 3.0 nines of reads: 3,000 compared, 0 stale, 0 undecided" == str(account.audited())


def test_each_stale_key_is_logged_once_and_counted_each_time() -> None:
    account, name = Account(), "invalidator_lookaside_audited_reads_total"
    before = REGISTRY.get_sample_value(name, {"outcome": "stale"}) or 0
    with capture_logs() as lines:
        for key in ("product:1", "product:2", "product:1"):
            account.count(key, STALE)
    assert [("error", "product:1"), ("error", "product:2")] == [(line["log_level"], line["key"]) for line in lines]
    assert before + 3 == REGISTRY.get_sample_value(name, {"outcome": "stale"})


def test_stale_keys_that_are_remembered_are_bounded() -> None:
    account = Account()
    with capture_logs() as lines:
        for number in range(module.LOGGED_KEYS + 1):
            account.count(f"product:{number}", STALE)
        account.count("product:0", STALE)
    assert module.LOGGED_KEYS == len(account._logged)
    assert module.LOGGED_KEYS + 2 == len(lines)


def test_source_that_fails_is_logged_once_for_each_kind_of_key_and_again_after_it_worked() -> None:
    account = Account()
    with capture_logs() as lines:
        for key in ("product:1", "product:2", "user:1"):
            account.failed(key, TimeoutError("too slow"))
        account.count("product:1", FRESH)
        account.failed("product:1", TimeoutError("too slow"))
    assert ["product", "user", "product"] == [line["kind"] for line in lines]
    assert {"TimeoutError: too slow"} == {line["reason"] for line in lines}
    assert 4 == account.audited().undecided
