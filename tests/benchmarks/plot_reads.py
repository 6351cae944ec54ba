"""A run of `reads` as a picture: the CPU of a read, as the number of nodes or of keys grows."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

FONT_SIZE = 11
COLOURS = {
    "LookAsideCache": "C0",
    "AsyncLookAsideCache": "C9",
    "pymemcache Client": "C1",
    "pymemcache HashClient": "C3",
    "pylibmc": "C2",
    "aiomcache": "C4",
    "bare socket": "0.3",
    "bare streams": "0.65",
}


def draw(figures: Mapping[tuple[str, int, int], float], path: Path) -> None:
    """Write the picture: a panel for each number of keys, a line for each contestant that has a colour."""
    with mpl.rc_context({"font.size": FONT_SIZE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        panels = sorted({keys for _, nodes, keys in figures if nodes})
        for axes, keys in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for name, colour in COLOURS.items():
                points = sorted((nodes, us) for (who, nodes, k), us in figures.items() if (who, k) == (name, keys))
                if points:
                    axes.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
            axes.set_xlabel("memcached nodes")
            axes.set_ylim(bottom=0)
            axes.set_title(
                "CPU µs of a hit" if keys == 1 else f"of {keys} keys at once", loc="left", fontsize=FONT_SIZE
            )
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
