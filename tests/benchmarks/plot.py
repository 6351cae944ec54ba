"""A run as a picture of speed, cost and latency. All scales are logarithmic."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tests.benchmarks.programme import Programme
from tests.benchmarks.results import Results, median

OURS, RAW, PEER = "C0", "0.7", "C1"
#: Percentile of a latency -> its marker.
PERCENTILES = {"p50": "o", "p99": "s", "p999": "^"}


def draw(results: Results, programme: Programme, path: Path) -> None:
    """Write the picture, unless a measurement is missing from it."""
    names = [who.name for who in programme.drains if results.drain(who.name, "cpu")][::-1]
    timed = [who.name for who in programme.timed if results.latency(who.name, programme.rates[0], "p50")][::-1]
    if not names or not timed:
        return
    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
    speed = figure.add_subplot(grid[0, 0])
    cost = figure.add_subplot(grid[0, 1], sharey=speed)
    _bars(speed, results, names, "events_per_second", "events a second, one full queue emptied", "{:,.0f}")
    _bars(cost, results, names, "cpu", "CPU seconds of the consumer per 100,000 events", "{:.2f}")
    cost.tick_params(labelleft=False)
    for column, rate in enumerate(programme.rates):
        latencies = figure.add_subplot(grid[1, column])
        _latencies(latencies, results, timed, rate)
    figure.legend(*latencies.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    about = results.about
    figure.suptitle(
        f"RabbitMQ {about['rabbitmq']}, 3 memcached nodes, publisher and consumer on {about['cores']} cores "
        f"({about['cpu']}); medians of {results.rounds} rounds"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _bars(axes: Axes, results: Results, names: Sequence[str], what: str, title: str, form: str) -> None:
    figures = [median(results.drain(name, what)) or 0.0 for name in names]
    bars = axes.barh(names, figures, color=[_color(name) for name in names])
    axes.bar_label(bars, [form.format(figure) for figure in figures], padding=3, fontsize="small")
    axes.set_xscale("log")
    axes.set_xlim(right=max(figures) * 4)
    axes.set_title(title, loc="left", fontsize="medium")


def _latencies(axes: Axes, results: Results, names: Sequence[str], rate: int) -> None:
    for what, marker in PERCENTILES.items():
        figures = [median(results.latency(name, rate, what)) or 0.0 for name in names]
        label = what.replace("p999", "p99.9")
        axes.scatter(figures, names, c=[_color(name) for name in names], marker=marker, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_title(f"publish to evicted at {rate:,} events a second, ms", loc="left", fontsize="medium")


def _color(name: str) -> str:
    return OURS if name.startswith("invalidator") else RAW if name.startswith("raw") else PEER
