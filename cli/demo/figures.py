"""Measured seconds, formatted for people, and text plots."""

from collections.abc import Sequence
from statistics import median


def duration(seconds: float) -> str:
    """Format seconds with three figures at most: "0.21 ms", "4.7 ms", "512 ms", "1.0 s"."""
    milliseconds = seconds * 1000
    if milliseconds >= 1000:
        return f"{seconds:.1f} s"
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1 if milliseconds >= 1 else 2}f} ms"


def summary(seconds: Sequence[float]) -> str:
    """Format median and maximum: "4.7 ms (median), 12.1 ms (worst)"."""
    return f"{duration(median(seconds))} (median), {duration(max(seconds))} (worst)"


BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:#"


def columns(counts: Sequence[int], *, top: int, height: int, blocks: str = BLOCKS) -> list[str]:
    """Draw a bar chart as rows of text, the top row first. A count of `top` fills its whole column.

    A count that is not zero is always visible.

    >>> print("\\n".join(columns([0, 1, 4, 8], top=8, height=2, blocks=ASCII_BLOCKS)))
       #
     .##
    """
    steps = len(blocks) - 1
    levels = [-(-count * height * steps // top) if top else 0 for count in counts]
    return [
        "".join(blocks[min(max(level - row * steps, 0), steps)] for level in levels) for row in reversed(range(height))
    ]
