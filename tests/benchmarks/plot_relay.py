"""A run of `relay` as a picture: bars with a linear axis, sorted, a panel for each database."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

FONT_SIZE = 11
#: Colour of each kind of contestant, and its description.
KINDS = {
    "0.65": "publish --from-file, without a database: the limit",
    "C0": "invalidator relay",
    "C1": "select for update skip locked, publish one by one, delete",
}
FLOOR, RELAY, LOOP = KINDS


def draw(about: Mapping[str, Any], speeds: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write the picture."""
    medians = {name: statistics.median(figures) for name, figures in speeds.items()}
    panels = _panels(medians)
    if not panels:
        return
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False}):
        heights = [len(bars) + 1 for bars in panels.values()]
        figure = Figure(figsize=(10, 0.36 * sum(heights) + 1.6), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (database, bars) in zip(axes, panels.items(), strict=True):
            drawn = panel.barh(list(bars), list(bars.values()), color=[_color(name) for name in bars])
            panel.bar_label(drawn, [f"{speed:,.0f}" for speed in bars.values()], padding=3)
            panel.set_title(database, loc="left", fontsize=FONT_SIZE, fontweight="bold")
            panel.set_xlim(0, max(medians.values()) * 1.12)
            panel.set_xticks([])
            panel.spines["bottom"].set_visible(False)
            panel.tick_params(left=False)
        rounds = max(map(len, speeds.values()))
        figure.suptitle(
            f"Events per second from the outbox to RabbitMQ {about['rabbitmq']} on {about['cores']} cores, "
            f"{about['at'][:10]}, medians of {rounds} rounds",
            fontsize=FONT_SIZE,
        )
        kinds = [Patch(color=color, label=description) for color, description in KINDS.items()]
        figure.legend(handles=kinds, loc="outside lower center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)


def _panels(medians: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the bars of each database, the longest on top; the limit is among those of each."""
    floors = {name: speed for name, speed in medians.items() if name.startswith("publish")}
    panels: dict[str, dict[str, float]] = {}
    for name, speed in medians.items():
        if name not in floors:
            database, _, what = name.partition(", ")
            panels.setdefault(database, {})[what] = speed
    if panels:
        next(iter(panels.values())).update(floors)
    return {database: dict(sorted(bars.items(), key=lambda bar: bar[1])) for database, bars in panels.items()}


def _color(name: str) -> str:
    return FLOOR if name.startswith("publish") else LOOP if name == "the usual loop" else RELAY
