"""The best sellers as every process of the application reads them: through `LookAsideCache`, from a slow database.

customers (the demo's process) ──┐
                                 ├──> LookAsideCache ── miss ──> SlowDatabase ── a line a load ──> loads.log
invalidator warm ── refill ──────┘
"""

import functools
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from invalidator.app import LookAsideCache
from invalidator.warmer import Refill

from .shop import CoherentProductCache, Product

#: Seconds that each load takes, even if several run at once.
LOAD_SECONDS = 0.02
#: The processes that load.
BY = CUSTOMER, WARMER = "customer", "warmer"
#: Environment variables that pass the shop to the warmer's process: a file, and nodes separated by commas.
DATABASE, NODES = "DEMO_DATABASE", "DEMO_NODES"


class DatabaseLoad(NamedTuple):
    """One load of the database."""

    #: Start time in seconds of `time.monotonic`, which all processes of a machine share.
    at: float
    by: str


class SlowDatabase:
    """The shop's database, for any number of threads. It records every load, with its process and time."""

    def __init__(self, file: Path, *, by: str) -> None:
        self._file = file
        self._log = file.with_name("loads.log")
        self._log.touch()
        self._by = by

    def load(self, id: str) -> Product:
        with self._log.open("a") as log:
            log.write(f"{time.monotonic()} {self._by}\n")
        with closing(sqlite3.connect(self._file)) as connection:
            row = connection.execute("SELECT * FROM products WHERE id = ?", (id,)).fetchone()
        time.sleep(LOAD_SECONDS)
        return Product(*row)

    def loads(self, *, since: float = 0.0) -> list[DatabaseLoad]:
        """Return the loads of all processes."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [DatabaseLoad(float(at), by) for at, by in lines if float(at) >= since]


def refill(key: str) -> Refill | None:
    """Return the loader of a key for `invalidator warm`. Every product is a best seller here."""
    kind, _, id = key.partition(":")
    return (lambda: _products().product(id)) if kind == "product" else None


@functools.cache
def _products() -> CoherentProductCache:
    database = SlowDatabase(Path(os.environ[DATABASE]), by=WARMER)
    return CoherentProductCache(LookAsideCache(os.environ[NODES].split(",")), database)
