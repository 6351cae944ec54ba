"""The targets of `dev bench --follow`: each can be missed."""

from dataclasses import replace

import pytest

from tests.benchmarks.followed.evictions import GATED, UNGATED, WITH_OUTBOX
from tests.benchmarks.followed.gate import WITH, WITHOUT
from tests.benchmarks.followed.retained import Retained
from tests.benchmarks.followed.run import FLOOR, Figures, _latencies, _speeds, _targets
from tests.benchmarks.followed.speed import Speed

MET = Figures(
    speeds={FLOOR: [Speed(40_000, 0, 0)], "one transaction": [Speed(20_000, 2.5, 50)]},
    million=Speed(20_000, 2.5, 60),
    taken={GATED: [2.0] * 100, UNGATED: [1.9] * 100, WITH_OUTBOX: [5.0] * 100, WITH: [1.2] * 100, WITHOUT: [1.0] * 100},
    retained=Retained(written=50, unconfirmed=50, kept=800, kept_for_peer=800),
)


def missed(figures: Figures) -> list[str]:
    return [what for what, _, _, verdict in _targets(figures) if verdict == "MISSED"]


def test_figures_that_meet_every_target() -> None:
    assert [] == missed(MET)


@pytest.mark.parametrize(
    ("figures", "what"),
    [
        (replace(MET, speeds=MET.speeds | {"one transaction": [Speed(19_000, 2.5, 50)]}), "rows/s, one transaction"),
        (replace(MET, million=Speed(20_000, 2.5, 90)), "MB resident, a transaction of a million rows"),
        (replace(MET, taken=MET.taken | {GATED: [2.0] * 98 + [30.0] * 2}), "COMMIT to evicted, p99 in ms"),
        (replace(MET, taken=MET.taken | {UNGATED: [1.6] * 100}), "the follower's gate, ms at the median"),
        (replace(MET, taken=MET.taken | {WITH: [1.4] * 100}), "Debezium's gate, ms at the median"),
        (replace(MET, retained=Retained(50, 70, 800, 800)), "MB not confirmed, 50 MB/s of unrelated log"),
        (replace(MET, retained=Retained(50, 50, 900, 800)), "900 MB kept by the server, of those for pg_recvlogical"),
    ],
)
def test_a_target_that_is_missed_is_named(figures: Figures, what: str) -> None:
    assert [what] == missed(figures)


def test_parts_that_were_not_measured_have_no_targets() -> None:
    assert ([], "", "") == (list(_targets(Figures())), _speeds(Figures()), _latencies(Figures()))


def test_speeds_are_shown_beside_the_floor() -> None:
    assert ["one", "transaction", "20,000", "0.50", "2.50", "50"] == _speeds(MET).splitlines()[-1].split()
