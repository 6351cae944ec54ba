"""A run of `relay` as a picture: sorted bars with a linear axis, a panel a database, and the range of the rounds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

FONT_SIZE = 11
#: Colour of each kind of contestant, and its description.
KINDS = {
    "0.65": "publish --from-file: no database",
    "C0": "invalidator relay",
    "C1": "a usual loop, one by one",
}
FILE, RELAY, LOOP = KINDS


def draw(about: Mapping[str, Any], speeds: Mapping[str, Sequence[float]], databases: Sequence[str], path: Path) -> None:
    """Write the picture. A name begins with its database, or with `publish`."""
    panels = {database: _bars(speeds, database) for database in databases}
    rows = [len(bars) + 1 for bars in panels.values()]
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 0.33 * sum(rows) + 1.2), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
        for panel, (database, bars) in zip(axes, panels.items(), strict=True):
            _draw_bars(panel, bars)
            panel.set_title(database, loc="left", fontsize=FONT_SIZE, fontweight="bold")
            panel.set_xlim(0, max(map(max, speeds.values())) * 1.1)
        figure.suptitle(_conditions(about, speeds), fontsize=FONT_SIZE)
        kinds = [Patch(color=color, label=description) for color, description in KINDS.items()]
        figure.legend(handles=kinds, loc="outside lower center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)


def _draw_bars(panel: Axes, bars: Mapping[str, Sequence[float]]) -> None:
    medians = [statistics.median(speeds) for speeds in bars.values()]
    panel.barh(list(bars), medians, color=[_color(name) for name in bars])
    for row, (speeds, middle) in enumerate(zip(bars.values(), medians, strict=True)):
        panel.plot([min(speeds), max(speeds)], [row, row], color="0.2", linewidth=1)
        panel.annotate(f"{middle:,.0f}", (max(speeds), row), (4, 0), textcoords="offset points", va="center")
    panel.set_xticks([])
    panel.spines["bottom"].set_visible(False)
    panel.tick_params(left=False)


def _bars(speeds: Mapping[str, Sequence[float]], database: str) -> dict[str, Sequence[float]]:
    """Return the bars of a database, and those without one, the longest on top."""
    bars = {name.removeprefix(f"{database}, "): figures for name, figures in speeds.items() if database in name}
    bars |= {name: figures for name, figures in speeds.items() if name.startswith("publish")}
    return dict(sorted(bars.items(), key=lambda bar: statistics.median(bar[1])))


def _conditions(about: Mapping[str, Any], speeds: Mapping[str, Sequence[float]]) -> str:
    return (
        f"Events per second from the outbox to RabbitMQ {about['rabbitmq']}, on {about['cores']} cores, "
        f"{about['at'][:10]}, medians and ranges of {min(map(len, speeds.values()))} rounds.\n"
        "20,000 events are waiting unless the label says otherwise."
    )


def _color(name: str) -> str:
    return FILE if name.startswith("publish") else LOOP if name == "the usual loop" else RELAY
