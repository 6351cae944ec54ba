"""Herds: 200 readers of one process on one missing key, threads and then tasks, and the loads that they cause.

Loads take from a twentieth of the time that a reader waits for another process to ten times as long. In two more
situations the reader that loads is in a process that is killed, and every load fails.
"""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from tests.benchmarks.report import table
from tests.servers import Memcached

READERS, KEY = 200, "product:1"
SLOW = (0.05, 0.6, 1.5, 5.0)
FAILING = 0.05

#: An owner that loads until it is killed.
OWNER = """
import sys, time
from invalidator.app import LookAsideCache

def load():
    print("loading", flush=True)
    time.sleep(3600)

LookAsideCache([sys.argv[1]]).get_or_load(sys.argv[2], load, ttl=60)
"""


class NoDatabaseError(Exception):
    pass


@dataclass
class Database:
    """A source that counts its loads, and those that overlapped."""

    seconds: float
    is_down: bool = False
    loads: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def load(self) -> int:
        self._began()
        time.sleep(self.seconds)
        return self._ended()

    async def load_async(self) -> int:
        self._began()
        await asyncio.sleep(self.seconds)
        return self._ended()

    def _began(self) -> None:
        with self._lock:
            self.loads += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def _ended(self) -> int:
        with self._lock:
            self.at_once -= 1
        if self.is_down:
            raise NoDatabaseError
        return 1


def herds() -> str:
    """Return a table of the loads in each situation."""
    rows = []
    for name, herd in (("threads", threads), ("tasks", lambda *args: asyncio.run(tasks(*args)))):
        rows += [_row(f"{READERS} {name}, a load takes {each:g} s", herd, Database(each), expected=1) for each in SLOW]
        rows.append(_row(f"{READERS} {name}, owner killed", herd, Database(0.6), expected=2, owner=True))
        rows.append(_row(f"{READERS} {name}, every load fails", herd, Database(FAILING, is_down=True), expected=None))
    return table(("herd on a missing key", "s", "loads", "at once", "loads at most", ""), rows)


Herd = Callable[[str, Database], None]


def _row(what: str, herd: Herd, database: Database, *, expected: int | None, owner: bool = False) -> list[str]:
    with Memcached() as node:
        if owner:
            _kill_an_owner(node)
        began = time.monotonic()
        herd(node.address, database)
        elapsed = time.monotonic() - began
    loads = database.loads + owner
    most = expected or int(1 + elapsed / database.seconds)
    met = loads <= most and database.most_at_once == 1
    figures = (f"{elapsed:.2f}", f"{loads}", f"{database.most_at_once}", f"{most}")
    return [what, *figures, "met" if met else "MISSED"]


def _kill_an_owner(node: Memcached) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, node.address, KEY], stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        owner.stdout.readline()
        owner.kill()


def threads(address: str, database: Database) -> None:
    with closing(LookAsideCache([address])) as cache, ThreadPoolExecutor(READERS) as pool:
        all_at_once = threading.Barrier(READERS)

        def read() -> Any:
            all_at_once.wait()
            return cache.get_or_load(KEY, database.load, ttl=60)

        reads = [pool.submit(read) for _ in range(READERS)]
        _check([future.exception() for future in reads], database)


async def tasks(address: str, database: Database) -> None:
    cache = AsyncLookAsideCache([address])
    reads = (cache.get_or_load(KEY, database.load_async, ttl=60) for _ in range(READERS))
    found = await asyncio.gather(*reads, return_exceptions=True)
    cache.close()
    _check([each if isinstance(each, BaseException) else None for each in found], database)


def _check(errors: list[BaseException | None], database: Database) -> None:
    expected = NoDatabaseError if database.is_down else type(None)
    assert {expected} == {type(error) for error in errors}
