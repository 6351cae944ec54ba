"""Counts over time as columns of block characters."""

from collections.abc import Sequence

BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:#"


def columns(counts: Sequence[int], *, top: int, height: int, blocks: str = BLOCKS) -> list[str]:
    """Rows, the highest first; a column reaches through all of them where its count is `top`.

    What is not zero is always seen.

    >>> print("\\n".join(columns([0, 1, 4, 8], top=8, height=2, blocks=ASCII_BLOCKS)))
       #
     .##
    """
    steps = len(blocks) - 1
    levels = [-(-count * height * steps // top) if top else 0 for count in counts]
    return [
        "".join(blocks[min(max(level - row * steps, 0), steps)] for level in levels) for row in reversed(range(height))
    ]
