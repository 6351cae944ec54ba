"""The truth in these runs: the version that was committed last of each product, in a file that all processes map.

A shop writes its products, and what it writes is what any later read of another process sees: the file stands for the
primary of an application. `source` is what `invalidator audit --source` names.
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
            opened.truncate(MOST * SIZE)
            self._versions = memoryview(mmap.mmap(opened.fileno(), MOST * SIZE)).cast("q")

    def __getitem__(self, product: int) -> int:
        """Return the version; a product that never changed has the first."""
        return self._versions[product] or 1

    def __setitem__(self, product: int, version: int) -> None:
        self._versions[product] = version

    def snapshot(self, products: int) -> list[int]:
        """Return the versions of the first products."""
        return [version or 1 for version in self._versions[:products]]


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
    return lambda: truth[product]
