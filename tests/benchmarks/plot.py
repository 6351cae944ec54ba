"""A run of the benchmarks as a picture: how fast, at what cost, how soon.

Bars have linear axes and are sorted. They compare consumers with one worker and one key per event. The report has the
others.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tests.benchmarks.contestants import Contestant, Limit, Ours, Peer
from tests.benchmarks.programme import Programme
from tests.benchmarks.results import Results, median

#: Colour of each kind of contestant, and its description.
KINDS = {
    "0.65": "a raw socket that evicts nothing: the limit",
    "C0": "invalidator",
    "C1": "other Python workers, on a classic queue",
}
RAW, OURS, PEER = KINDS
#: Percentiles of a latency, with marker and description.
PERCENTILES = {
    "p50": ("o", "half of the events within"),
    "p99": ("s", "99 % within"),
    "p999": ("^", "99.9 % within"),
}
SIZE, FONT_SIZE = (10, 9), 11
#: An axis that spans less is labelled at 1, 2 and 5, a longer one at powers of ten.
A_HUNDRED = 100


def draw(results: Results, programme: Programme, path: Path) -> None:
    """Write the picture, if everything that it shows was measured."""
    drained = [who for who in programme.drains if _is_comparable(who) and results.drain(who.name, "cpu")]
    timed = [who for who in programme.timed if results.latency(who.name, programme.rates[0], "p50")]
    if not drained or not timed:
        return
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(len(drained) + 3, len(timed) + 4))[:, 0]
        speed, cost = upper.subplots(1, 2, sharey=True)
        drained.sort(key=lambda who: median(results.drain(who.name, "events_per_second")) or 0.0)
        _bars(speed, results, drained, "events_per_second", "Events per second (longer is better)", "{:,.0f}")
        _bars(cost, results, drained, "cpu", "CPU seconds per 100,000 events (shorter is better)", "{:.1f}")
        upper.legend(handles=_kinds(), loc="outside lower center", ncols=3, frameon=False)
        timed.sort(key=lambda who: median(results.latency(who.name, programme.rates[0], "p50")) or 0.0, reverse=True)
        panels = lower.subplots(1, len(programme.rates), sharey=True, squeeze=False)[0]
        for axes, rate in zip(panels, programme.rates, strict=True):
            _latencies(axes, results, timed, rate)
        lower.legend(handles=_percentiles(), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(_conditions(results), fontsize=FONT_SIZE)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)


def _is_comparable(who: Contestant) -> bool:
    """Return True for one worker that evicts one key per event, each from the queue type that suits it."""
    if isinstance(who, Ours | Limit) and who.queue_type != "quorum":
        return False
    return who.keys == 1 and who.workers == 1 and getattr(who, "consumer", "tap") == "tap"


def _conditions(results: Results) -> str:
    about = results.about
    return (
        f"One worker, 3 memcached nodes and RabbitMQ {about['rabbitmq']} on {about['cores']} cores ({about['cpu']}), "
        f"{about['at'][:10]}, medians of {results.rounds} rounds"
    )


def _bars(axes: Axes, results: Results, contestants: Sequence[Contestant], what: str, title: str, form: str) -> None:
    figures = [median(results.drain(who.name, what)) or 0.0 for who in contestants]
    bars = axes.barh([_words(who) for who in contestants], figures, color=[_color(who) for who in contestants])
    axes.bar_label(bars, [form.format(figure) for figure in figures], padding=3)
    axes.set_xlim(0, max(figures) * 1.2)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(title, loc="left", fontsize=FONT_SIZE)


def _latencies(axes: Axes, results: Results, contestants: Sequence[Contestant], rate: int) -> None:
    """Draw one line of markers per contestant. A percentile that was never reached has none."""
    for row, who in enumerate(contestants):
        known = {what: median(results.latency(who.name, rate, what)) for what in PERCENTILES}
        reached = {what: figure for what, figure in known.items() if figure is not None and math.isfinite(figure)}
        axes.plot(list(reached.values()), [row] * len(reached), color=_color(who), linewidth=1, alpha=0.5)
        for what, figure in reached.items():
            axes.plot(figure, row, PERCENTILES[what][0], color=_color(who), markersize=7)
    axes.set_yticks(range(len(contestants)), [_words(who) for who in contestants])
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < A_HUNDRED else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} ms" if x < 1000 else f"{x / 1000:g} s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.set_title(f"Publish to evicted, at {rate:,} events per second", loc="left", fontsize=FONT_SIZE)


def _words(who: Contestant) -> str:
    """Return the contestant's name as the picture says it."""
    name = who.name.replace("raw limit", "raw socket").replace("raw floor", "raw socket").replace("celery", "Celery")
    return name.replace(", classic", ", classic queue").replace(", aiomcache", "")


def _color(who: Contestant) -> str:
    return PEER if isinstance(who, Peer) else OURS if isinstance(who, Ours) else RAW


def _kinds() -> list[Patch]:
    return [Patch(color=color, label=description) for color, description in KINDS.items()]


def _percentiles() -> list[Line2D]:
    return [
        Line2D([], [], marker=marker, color="0.3", linestyle="", label=text) for marker, text in PERCENTILES.values()
    ]
