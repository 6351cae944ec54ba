"""The timeline of a run as a picture: faults, stale products, queues."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Shortest bar that is drawn for a fault, as a share of the run.
SHORTEST = 0.003


def draw_timeline(out: Path) -> None:
    """Read timeline.json and ledger.json from a run's folder and write timeline.png."""
    timeline = json.loads((out / "timeline.json").read_text())
    ledger = json.loads((out / "ledger.json").read_text())
    figure = Figure(figsize=(14, 9), layout="constrained")
    faults, staleness, waiting = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1.3, 1.3))
    _draw_faults(faults, timeline["faults"], timeline["samples"][-1]["at"])
    _draw_staleness(staleness, timeline["samples"])
    _draw_waiting(waiting, timeline["samples"])
    waiting.set_xlabel("seconds")
    figure.suptitle(
        f"{ledger['confirmed']:,} events confirmed: {ledger['lost']:,} lost, {ledger['unexpected']:,} unexpected, "
        f"{ledger['stale_keys']:,} keys stale at the end"
    )
    figure.savefig(out / "timeline.png", dpi=110)


def _draw_faults(axes: Axes, faults: list[dict[str, Any]], end: float) -> None:
    kinds = sorted({fault["kind"] for fault in faults}, reverse=True)
    for fault in faults:
        length = max(fault["ended"] - fault["began"], end * SHORTEST)
        target = fault["target"]
        color = f"C{int(target[1:])}" if target.startswith("c") else "0.3"
        axes.broken_barh([(fault["began"], length)], (kinds.index(fault["kind"]) - 0.35, 0.7), facecolors=color)
    for node in sorted({fault["target"] for fault in faults if fault["target"].startswith("c")}):
        axes.plot([], [], color=f"C{int(node[1:])}", linewidth=6, label=node)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_title("what failed when", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def _draw_staleness(axes: Axes, samples: list[dict[str, float]]) -> None:
    at = [sample["at"] for sample in samples]
    axes.plot(at, [max(sample["oldest"], 1e-3) for sample in samples], label="oldest copy not seen gone yet")
    ended = [(sample["at"], sample["slowest"]) for sample in samples if sample["slowest"]]
    axes.plot(*zip(*ended, strict=True), ".", label="longest that was just seen to end")
    axes.set_yscale("log")
    axes.set_ylabel("seconds")
    axes.set_title("how long nodes hold an old version after its event was confirmed (read every 30 ms)", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def _draw_waiting(axes: Axes, samples: list[dict[str, float]]) -> None:
    known = [sample for sample in samples if "queued" in sample]
    at = [sample["at"] for sample in known]
    axes.plot(at, [sample["queued"] for sample in known], label="events in the cluster's queue")
    axes.plot(at, [sample["parked"] for sample in known], label="debts in parking queues")
    axes.plot([sample["at"] for sample in samples], [sample["pending"] for sample in samples], label="products stale")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_title("what waits", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
