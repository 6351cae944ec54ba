"""Act 6 of the demo as a picture: loads of the database and waits of customers, without the warmer and with it.

    .venv/bin/python -m tests.benchmarks.warming [--publish]

One broker, three memcached nodes, two workers and `invalidator warm` run in a process each. It prints the same as the
demo, and with `--publish` writes conf/pictures/warming.png. It needs matplotlib (the extra `bench`).
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

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
LOADED_BY = {CUSTOMER: ("customers", "C1"), WARMER: ("the warmer", "C0")}


def measure(report: Report) -> list[Run]:
    with ExitStack() as stack:
        broker = stack.enter_context(Broker()).url()
        nodes = [("127.0.0.1", stack.enter_context(Memcached()).port) for _ in range(3)]
        workers = stack.enter_context(Workers(broker, {CLUSTER: nodes}))
        workers.wait_until_ready()
        return warming(workers, nodes, broker, report.say)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw a row without warming and a row with it, with a column for each pace."""
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    widths = [pace.seconds for pace in PACES]
    grid = figure.subplots(2, len(PACES), sharex="col", sharey=True, width_ratios=widths)
    for run in runs:
        _loads(grid[int(run.is_warmed), PACES.index(run.pace)], run)
    for axes, pace in zip(grid[0], PACES, strict=True):
        axes.set_title(f"{pace.events * pace.products} prices change {pace}", loc="left", fontsize="medium")
    for axes in grid[1]:
        axes.set_xlabel("seconds")
    for axes, is_warmed in zip(grid[:, 0], WARMING, strict=True):
        axes.set_ylabel(f"{WARMING[is_warmed]}\nloads in {duration(SLICE)}")
    grid[0, 0].legend(*grid[1, 0].get_legend_handles_labels(), loc="upper left", fontsize="small", frameon=False)
    figure.savefig(path, dpi=100)


def _loads(axes: Axes, run: Run) -> None:
    bottom = [0] * len(run.counts())
    for by, (name, color) in LOADED_BY.items():
        counts = run.counts(by)
        edges = [SLICE * number for number in range(len(counts))]
        axes.bar(edges, counts, SLICE * 0.9, bottom, align="edge", color=color, label=f"loaded by {name}")
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    waited = f"{run.cold} of {len(run.reads)} reads had to wait\n99 % of reads within {duration(run.p99)}"
    axes.text(0.98, 0.95, waited, transform=axes.transAxes, ha="right", va="top", fontsize="small")
    axes.set_xlim(0, run.pace.seconds)
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.spines[["top", "right"]].set_visible(False)


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
