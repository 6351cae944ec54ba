"""Staleness over delay as a picture: the share of stale values, and the share that is not excluded, on a log scale."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.audit.summary import Line

#: Decades that are shown at least: down to 0.1 %.
DECADES = 3
#: Columns of a decade in a terminal, at least: its label needs them.
NARROWEST = 9
#: A bar's part that was measured, and the part up to the bound.
BLOCKS, ASCII_BLOCKS = "█▒", "#-"


class Point(NamedTuple):
    """The share of values that were stale after a delay; the bound is the share that is not exceeded."""

    delay: float
    share: float
    bound: float


def points(lines: "Sequence[Line]") -> list[Point]:
    """Return a point for each delay at which there was a value."""
    return [Point(line.delay, line.stale / line.present, line.values.checks) for line in lines if line.present]


def bars(of: Sequence[Point], *, title: str, width: int, blocks: str = BLOCKS) -> list[str]:
    """Draw a bar for each delay as rows of text, with the scale above them and the legend below.

    >>> print("\\n".join(bars([Point(0.1, 0.01, 0.1), Point(1, 0, 0.01)], title="TODAY", width=40, blocks="#-")))
    TODAY       0.1 %    1 %      10 %     100 %
    after 0.1 s #########---------
    after 1 s   ---------
                # stale, - not excluded with 95 %
    """
    decades = _decades(of)
    labels = [f"after {point.delay:g} s" for point in of]
    left = max(map(len, [title, *labels])) + 1
    column = max(NARROWEST, (width - left - len("100 %")) // decades)
    rows = [f"{title:{left}}" + "".join(_percent(-decade).ljust(column) for decade in range(decades, -1, -1)).rstrip()]
    for label, point in zip(labels, of, strict=True):
        measured, bound = (_columns(share, decades, column) for share in (point.share, point.bound))
        rows.append(f"{label:{left}}{blocks[0] * measured}{blocks[1] * (bound - measured)}")
    return [*rows, f"{'':{left}}{blocks[0]} stale, {blocks[1]} not excluded with 95 %"]


def _decades(of: Sequence[Point]) -> int:
    """Return the powers of ten to show below 100 %."""
    smallest = min((share for point in of for share in (point.share, point.bound) if share), default=1.0)
    return max(DECADES, -floor(log10(smallest)))


def _columns(share: float, decades: int, column: int) -> int:
    return max(0, ceil((log10(share) + decades) * column)) if share else 0


def _percent(decade: int) -> str:
    return f"{10 ** (decade + 2):.{max(0, -decade - 2)}f} %"


# As a file

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 60, 60
COLOURS = ("#1f77b4", "#999999")
#: Pixels between the series of one delay.
BESIDE = 14
HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="24" font-size="15">Share of stale values, by the time since the change</text>
<text x="{WIDTH - RIGHT}" y="46" text-anchor="end">dot: stale, line: not excluded with 95 %</text>
<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">seconds since the change</text>
"""


def svg(series: Mapping[str, Sequence[Point]]) -> str:
    """Return a picture of these series by name, for example of a day and of a week: a bar up to the bound of each."""
    shown = {name: of for name, of in series.items() if of}
    scale = _Scale([point for of in shown.values() for point in of])
    return HEAD + "\n".join([*scale.grid(), *_series(shown, scale), "</svg>\n"])


class _Scale:
    """The places of delays and shares in the picture."""

    def __init__(self, of: Sequence[Point]) -> None:
        self._delays = sorted({point.delay for point in of})
        self._decades = _decades(of)

    def x(self, delay: float) -> float:
        return LEFT + (self._delays.index(delay) + 0.5) * (WIDTH - LEFT - RIGHT) / len(self._delays)

    def y(self, share: float) -> float:
        high = max(0.0, log10(share) + self._decades) if share else 0.0
        return TOP + (1 - high / self._decades) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> Iterator[str]:
        for decade in range(-self._decades, 1):
            y = self.y(10.0**decade)
            yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_percent(decade)}</text>'
        for delay in self._delays:
            yield f'<text x="{self.x(delay):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{delay:g}</text>'


def _series(shown: Mapping[str, Sequence[Point]], scale: _Scale) -> Iterator[str]:
    for number, ((name, of), colour) in enumerate(zip(shown.items(), COLOURS, strict=False)):
        at = LEFT + number * 110
        yield f'<rect x="{at}" y="36" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{at + 16}" y="46">{name}</text>'
        for point in of:
            x, low, high = scale.x(point.delay) + number * BESIDE, scale.y(point.share), scale.y(point.bound)
            yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="6" opacity="0.4"/>'
            yield f'<path d="M{x - 6:.1f} {high:.1f}h12" stroke="{colour}" stroke-width="2"/>'
            if point.share:
                yield f'<circle cx="{x:.1f}" cy="{low:.1f}" r="5" fill="{colour}"/>'
