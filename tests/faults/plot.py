"""The timeline of a run as a picture: which faults happened when, how long copies were old, and what waited."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from tests.faults.schedule import ON_A_NODE, Kind

Sample = dict[str, float]

#: Seconds that a fault is drawn for at least, as a share of the run.
SHORTEST = 0.004
SIZE, FONT_SIZE = (10, 10), 11
#: The colour of faults of workers and broker. Nodes have the colours C0, C1, C2.
ALL = "0.25"


def draw_timeline(out: Path) -> None:
    """Read timeline.json and ledger.json of a run's folder, write timeline.png."""
    timeline = json.loads((out / "timeline.json").read_text())
    ledger = json.loads((out / "ledger.json").read_text())
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        faults, staleness, waiting = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1.2, 1.2))
        _draw_faults(faults, timeline["faults"], timeline["samples"][-1]["at"])
        _draw_staleness(staleness, timeline["samples"])
        _draw_waiting(waiting, timeline["samples"])
        waiting.set_xlabel("seconds since the first event")
        figure.suptitle(
            f"{ledger['confirmed']:,} events: {ledger['lost']:,} lost, {ledger['unexpected']:,} unexpected, "
            f"{ledger['stale_keys']:,} keys stale at the end",
            fontweight="bold",
        )
        figure.savefig(out / "timeline.png", dpi=100)


def _draw_faults(axes: Axes, faults: list[dict[str, Any]], end: float) -> None:
    kinds = [str(kind) for kind in sorted(Kind, key=lambda kind: kind in ON_A_NODE)]
    kinds = [kind for kind in kinds if any(fault["kind"] == kind for fault in faults)][::-1]
    nodes = sorted({fault["target"] for fault in faults if _is_node(fault["target"])})
    colors = {node: f"C{number}" for number, node in enumerate(nodes)}
    for fault in faults:
        length = max(fault["ended"] - fault["began"], end * SHORTEST)
        color = colors.get(fault["target"], ALL)
        axes.broken_barh([(fault["began"], length)], (kinds.index(fault["kind"]) - 0.35, 0.7), facecolors=color)
    axes.set_yticks(range(len(kinds)), kinds)
    labels = [Patch(color=ALL, label="workers or broker")]
    labels += [Patch(color=color, label=f"node {node[1:]}") for node, color in colors.items()]
    _finish(axes, "Faults of workers, broker and memcached nodes", handles=labels)


def _draw_staleness(axes: Axes, samples: list[Sample]) -> None:
    at = [sample["at"] for sample in samples]
    axes.plot(at, _known(samples, "oldest"), color="C0", label="the oldest copy, still there")
    axes.plot(at, _known(samples, "slowest"), ".", color="C1", markersize=4, label="the slowest copy that just left")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} s" if y >= 1 else f"{1000 * y:g} ms"))
    _finish(axes, "Age of old copies, since their event was confirmed")


def _draw_waiting(axes: Axes, samples: list[Sample]) -> None:
    at = [sample["at"] for sample in samples]
    axes.plot(at, _known(samples, "pending", zero=0.0), color="C0", label="products with an old copy")
    axes.plot(at, _known(samples, "parked", zero=0.0), color="C1", label="parked messages")
    axes.plot(at, _known(samples, "queued", zero=0.0), color="C2", label="events in the queue")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.set_ylim(bottom=0)
    _finish(axes, "Waiting")


def _finish(axes: Axes, title: str, handles: Sequence[Artist] = ()) -> None:
    """Set the title, and the legend between the title and the data."""
    axes.set_title(title, loc="left", pad=24, fontsize=FONT_SIZE, fontweight="bold")
    shown = handles or axes.get_legend_handles_labels()[0]
    axes.legend(
        handles=shown,
        ncols=len(shown),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        borderpad=0,
        frameon=False,
        fontsize="small",
    )


def _known(samples: list[Sample], what: str, *, zero: float = math.nan) -> list[float]:
    """Return one figure of each sample, and NaN if it was not measured, so that the line has a gap there."""
    return [(sample[what] or zero) if what in sample else math.nan for sample in samples]


def _is_node(target: str) -> bool:
    return target[:1] == "c" and target[1:].isdigit()
