"""The account of `dev faults audited`: what shops, auditor and reader saw is compared, and contradictions are red."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.audited.account import Seen, account, table
from tests.faults.audited.auditor import Judgement
from tests.faults.audited.readers import Compared
from tests.faults.audited.truth import Truth
from tests.faults.audited.turns import BookedTurns, Stay

#: Product 1 changed at 10 s. Node c1 held the old copy from 10.1 to 12 s at least, and no more at 12.1 s; c2 never did.
STAYS = [Stay(1, 0, 10.0, 10.1, 12.0, 12.1), Stay(1, 1, 10.0, None, None, 10.1)]
STALE = Judgement(1, 1.0, "late", 11.0, 11.1, ["c1"])
FRESH = Judgement(1, 10.0, "fresh", 20.0, 20.1, [])
QUIET = Seen(
    stays=STAYS,
    judgements=[STALE, FRESH],
    counted={1.0: 1, 10.0: 0},
    nodes=["c1", "c2"],
    reads=[(11.0, 100), (20.0, 50)],
    stale_reads=[(1, 0, 12.05)],
    compared=[Compared(1, 0, "fresh", 21.0), Compared(1, 0, "gone", 12.5)],
    faults=[(9.0, 12.0)],
)


def test_shops_auditor_and_reader_that_saw_the_same_agree() -> None:
    found = account(QUIET)
    assert [] == found.disagreements
    first, second = found.rows
    assert (1.0, 1, 1, 1, 1, 1, 0) == first[:7]
    assert (10.0, 1, 1, 0, 0, 0, 0) == second[:7]
    assert ((150, 1), (50, 0)) == (found.reads[:2], found.quiet_reads[:2])
    assert (2, 0) == (found.compared, found.found)
    assert "does not agree" not in table(found)


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (replace(QUIET, judgements=[STALE._replace(verdict="fresh", stale=[])], counted={}), "1 misses, 0 false"),
        (replace(QUIET, judgements=[STALE._replace(verdict="absent", stale=[])], counted={}), "1 misses, 0 false"),
        (replace(QUIET, judgements=[STALE._replace(stale=["c2"])]), "1 false alarms"),
        (replace(QUIET, judgements=[STALE._replace(asked=12.2, answered=12.3)]), "1 false alarms"),
        (replace(QUIET, judgements=[STALE._replace(asked=10.9)]), "1 false alarms"),
        (replace(QUIET, judgements=[STALE._replace(product=2)]), "1 false alarms"),
        (replace(QUIET, counted={1.0: 2}), "1 verdicts, 2 counted"),
        (replace(QUIET, stale_reads=[(1, 0, 12.2)]), "a stale read of product 1 on c1"),
        (replace(QUIET, stale_reads=[(1, 0, 11.9)]), "a stale read of product 1 on c1"),
        (replace(QUIET, compared=[Compared(1, 0, "fresh", 11.5)]), "a hit"),
        (replace(QUIET, compared=[Compared(1, 1, "stale", 12.0)]), "a hit"),
    ],
    ids=[
        "fresh, and old before and after",
        "absent, and old before and after",
        "stale on another node",
        "stale after it was gone",
        "stale for longer than the change is old",
        "stale without a change",
        "another number than the verdicts",
        "read after it was gone",
        "stale for two seconds when it was old for less",
        "a fresh hit, and old all the time",
        "a stale hit on another node",
    ],
)
def test_what_the_shops_contradict_is_red(seen: Seen, sentence: str) -> None:
    found = account(seen)
    assert any(sentence in each for each in found.disagreements), found.disagreements
    assert not found.agrees
    assert "does not agree" in table(found)


@pytest.mark.parametrize("verdict", ["unclear", "unchecked"])
def test_a_look_without_a_verdict_contradicts_nothing(verdict: str) -> None:
    (row,) = account(replace(QUIET, judgements=[STALE._replace(verdict=verdict, stale=[])], counted={})).rows
    assert (0, 0, 1, 0) == (row.checked, row.ledger, row.undecided, row.misses)


def test_between_two_looks_of_a_shop_nothing_is_certain() -> None:
    between = STALE._replace(asked=11.9, answered=12.05)
    for verdict in (between, between._replace(verdict="fresh", stale=[])):
        assert account(replace(QUIET, judgements=[verdict], counted={1.0: len(verdict.stale)})).agrees


def test_a_shop_writes_down_how_long_it_saw_an_old_copy(tmp_path: Path) -> None:
    truth = Truth(tmp_path / "truth")
    product = 0
    turns = BookedTurns(1, 2, lambda _: range(2), truth=truth, share=1.0, number=lambda one: one, now=lambda: 10.0)
    assert 1 == truth.committed(product)
    turns.change(product)
    assert (2, [1]) == (Truth(tmp_path / "truth").committed(product), truth.confirmed(1)), "another process reads it"
    turns.published(product, 10.5)
    assert [2] == truth.confirmed(1)
    for at in (11.0, 12.0, 13.0):
        turns.observed(0, [product], {product: 1}, at)
    turns.observed(1, [product], {}, 13.0)
    old, never = Stay(0, 0, 10.0, 11.0, 12.0, None), Stay(0, 1, 10.0, None, None, 13.0)
    assert [never, old] == turns.written()["stays"]
    turns.observed(0, [product], {product: 2}, 14.0)
    assert [never, old._replace(gone=14.0)] == turns.written()["stays"]


def test_the_account_is_written_with_the_names_of_its_columns() -> None:
    written = json.loads(account(QUIET).as_json())
    assert (1.0, 1) == (written["rows"][0]["delay"], written["rows"][0]["both"])
    assert (1, True) == (written["reads"]["stale"], written["agrees"])
