"""The truth in these runs: the last version of each product, in a file that all processes map.

A shop writes its products, and what it writes is what any later read of another process sees: the file stands for the
primary of an application. `source` is what `invalidator audit --source` names. Beside each version that is committed
stands the last one whose event is confirmed, for those who count how long a value is old.
"""

import mmap
from collections.abc import Callable
from pathlib import Path

#: Products that the file has room for; its blocks are only there once they are written.
MOST = 1 << 21
SIZE = 8


class Truth:
    """The file, mapped."""

    def __init__(self, file: Path) -> None:
        """Map the file, and make it if it is missing."""
        with file.open("a+b") as opened:
            opened.truncate(2 * MOST * SIZE)
            versions = memoryview(mmap.mmap(opened.fileno(), 2 * MOST * SIZE)).cast("q")
        self._committed, self._confirmed = versions[:MOST], versions[MOST:]

    def committed(self, product: int) -> int:
        """Return the last version; a product that never changed has the first."""
        return self._committed[product] or 1

    def commit(self, product: int, version: int) -> None:
        self._committed[product] = version

    def confirmed(self, products: int) -> list[int]:
        """Return the last confirmed version of each of the first products."""
        return [version or 1 for version in self._confirmed[:products]]

    def confirm(self, product: int, version: int) -> None:
        self._confirmed[product] = version


def product_of(key: str) -> int:
    return int(key.removeprefix("product:"))


_truth: Truth | None = None


def use(file: Path) -> None:
    """Let `source` read this file."""
    global _truth  # noqa: PLW0603  the auditor names a function of a module
    _truth = Truth(file)


def source(key: str) -> Callable[[], int]:
    """Return the function that reads a product's version."""
    assert _truth is not None
    truth, product = _truth, product_of(key)
    return lambda: truth.committed(product)
