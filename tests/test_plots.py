"""The pictures of benchmarks and faults: drawn from a few figures, with gaps where nothing was measured."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from tests.benchmarks import plot, plot_reads, plot_relay
from tests.benchmarks.drain import Drained
from tests.benchmarks.latency import Latency
from tests.benchmarks.programme import AIO_PIKA, BY_AIO_PIKA, EVERY_NODE, HUNDRED_KEYS, LIMIT, ON_CLASSIC, OWNER, QUICK
from tests.benchmarks.relay import Measured, _targets
from tests.benchmarks.results import Results, Row
from tests.faults.plot import _known, draw_timeline
from tests.faults.schedule import Kind

ABOUT = {"rabbitmq": "3.10.8", "cores": 2, "cpu": "a CPU", "at": "2026-11-26T08:33:36+00:00"}


def test_bars_compare_one_worker_and_one_key_per_event() -> None:
    comparable = [who for who in (LIMIT, OWNER, EVERY_NODE, AIO_PIKA) if plot._is_comparable(who)]
    assert [LIMIT, OWNER, EVERY_NODE, AIO_PIKA] == comparable
    assert not any(plot._is_comparable(who) for who in (HUNDRED_KEYS, ON_CLASSIC, BY_AIO_PIKA))


def test_a_run_is_drawn_although_a_percentile_was_never_reached(tmp_path: Path) -> None:
    results = Results(about=ABOUT)
    for who in QUICK.drains:
        results.drained.append(Row(who.name, 0, 0.0, Drained(100, 1000.0, 1.0, 1.0, 40.0)))
    for who in QUICK.timed:
        for rate in QUICK.rates:
            results.latencies.append(Row(who.name, 0, 0.0, Latency(rate, 100, 1.0, 9.0, math.inf, math.inf, 1)))
    plot.draw(results, QUICK, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 0


def test_nothing_is_drawn_of_a_run_without_latencies(tmp_path: Path) -> None:
    results = Results(about=ABOUT, drained=[Row(OWNER.name, 0, 0.0, Drained(100, 1000.0, 1.0, 1.0, 40.0))])
    plot.draw(results, QUICK, tmp_path / "bench.png")
    assert not (tmp_path / "bench.png").exists()


def test_reads_are_drawn_with_a_line_for_each_contestant(tmp_path: Path) -> None:
    figures = {("LookAsideCache", nodes, keys): 10.0 * keys for nodes in (3, 12) for keys in (1, 100)}
    plot_reads.draw(figures | {("NearCache", 0, 1): 0.2}, tmp_path / "reads.png")
    assert (tmp_path / "reads.png").stat().st_size > 0


def test_the_relay_is_drawn_with_a_panel_for_each_database(tmp_path: Path) -> None:
    speeds = {f"{database}, {what}": [10.0, 20.0] for database in ("PostgreSQL", "SQLite") for what in ("a", "b")}
    plot_relay.draw(ABOUT, {"publish --from-file": [50.0]} | speeds, ["PostgreSQL", "SQLite"], tmp_path / "relay.png")
    assert (tmp_path / "relay.png").stat().st_size > 0


def test_targets_of_the_relay_are_met_or_missed_by_the_medians_of_one_run() -> None:
    speeds = {
        "publish --from-file": [90.0, 100.0, 110.0],
        "PostgreSQL, all distinct": [50.0],
        "SQLite, one entity": [24.0],
    }
    measured = Measured(ABOUT, speeds, evicted=[4.0, 61.0])
    assert [
        ("PostgreSQL, all distinct, of publish --from-file's", "met"),
        ("SQLite, one entity, of publish --from-file's", "MISSED"),
        ("commit to evicted, p50, ms", "met"),
        ("commit to evicted, p99, ms", "MISSED"),
    ] == [(what, met) for what, _, _, met in _targets(measured)]


def test_a_line_has_a_gap_where_nothing_was_measured() -> None:
    samples = [{"oldest": 0.5}, {"oldest": 0.0}, {}, {"oldest": 0.25}]
    assert ["0.5", "nan", "nan", "0.25"] == [str(figure) for figure in _known(samples, "oldest")]
    assert ["0.5", "0.0", "nan", "0.25"] == [str(figure) for figure in _known(samples, "oldest", zero=0.0)]


def test_a_timeline_is_drawn(tmp_path: Path) -> None:
    samples = [
        {"at": 0.5, "pending": 3, "oldest": 0.1, "slowest": 0.2, "queued": 1, "parked": 0},
        {"at": 1.0, "pending": 0, "oldest": 0.0, "slowest": 0.0},
    ]
    faults = [
        {"kind": str(Kind.FREEZE_NODE), "target": "c2", "began": 0.2, "ended": 0.9},
        {"kind": str(Kind.KILL_WORKERS), "target": "all workers", "began": 0.3, "ended": 0.3},
    ]
    (tmp_path / "timeline.json").write_text(json.dumps({"samples": samples, "faults": faults}))
    (tmp_path / "ledger.json").write_text(
        json.dumps(dict.fromkeys(["confirmed", "lost", "unexpected", "stale_keys"], 0))
    )
    draw_timeline(tmp_path)
    assert (tmp_path / "timeline.png").stat().st_size > 0
