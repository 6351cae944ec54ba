"""Act 6 of the demo as a picture: loads of the database and waits of customers, without the warmer and with it.

    .venv/bin/python -m tests.benchmarks.warming [--publish]

Starts one broker, three memcached nodes, two workers and `invalidator warm`, a process each. Prints the demo's tables.
With `--publish` it also writes conf/pictures/warming.png. Needs matplotlib (the extra `bench`).
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import matplotlib as mpl
from invalidator_cli.demo.figures import duration
from invalidator_cli.demo.hot import CUSTOMER, WARMER
from invalidator_cli.demo.report import WARMING, Report
from invalidator_cli.demo.warming import CLUSTER, PACES, SLICE, Run, warming
from invalidator_cli.demo.workers import Workers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from tests.servers import Broker, Memcached

PUBLISHED = Path(__file__).parents[2] / "conf" / "pictures" / "warming.png"
FONT_SIZE = 11
LOADED_BY = {CUSTOMER: ("customers", "C1"), WARMER: ("the warmer", "C0")}


def measure(report: Report) -> list[Run]:
    with ExitStack() as stack:
        broker = stack.enter_context(Broker()).url()
        nodes = [("127.0.0.1", stack.enter_context(Memcached()).port) for _ in range(3)]
        workers = stack.enter_context(Workers(broker, {CLUSTER: nodes}))
        workers.wait_until_ready()
        return warming(workers, nodes, broker, report.say)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw a row without warming and one with, a column for each pace."""
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 6), layout="constrained")
        widths = [pace.seconds for pace in PACES]
        grid = figure.subplots(2, len(PACES), sharex="col", sharey=True, width_ratios=widths)
        for run in runs:
            _loads(grid[int(run.is_warmed), PACES.index(run.pace)], run)
        for axes in grid[1]:
            axes.set_xlabel("seconds")
        for axes, is_warmed in zip(grid[:, 0], WARMING, strict=True):
            axes.set_ylabel(f"{WARMING[is_warmed]}\nloads per {duration(SLICE)}")
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=100)


def _loads(axes: Axes, run: Run) -> None:
    bottom = [0] * len(run.counts())
    for by, (name, color) in LOADED_BY.items():
        counts = run.counts(by)
        edges = [SLICE * number for number in range(len(counts))]
        axes.bar(edges, counts, SLICE * 0.9, bottom, align="edge", color=color, label=f"loaded by {name}")
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    pace = run.pace
    axes.set_title(
        f"{pace.events * pace.products} prices change {pace}: {len(run.loads)} loads,\n"
        f"{run.cold} of {len(run.reads)} reads waited,\n99 % of reads took under {duration(run.p99)}",
        loc="left",
        fontsize=FONT_SIZE,
    )
    axes.set_xlim(0, pace.seconds)
    axes.xaxis.set_major_locator(MultipleLocator(0.5))


def main(*, publish: bool) -> None:
    report = Report()
    runs = measure(report)
    report.loads(runs)
    report.customers(runs)
    if publish:
        draw(runs, PUBLISHED)
        print(f"written: {PUBLISHED}")


if __name__ == "__main__":
    main(publish="--publish" in sys.argv[1:])
