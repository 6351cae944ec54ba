"""Reading the source: the application's function in a few threads, each read within a time.

A read that fails or takes too long proves nothing, so its checks count as not made.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from invalidator.audit.truth import Read, Source, Truth
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage

#: Reads under way at a time.
THREADS = 4
#: Seconds for a read.
TIMEOUT = 5.0

log = Log(__name__)


class SourceReader:
    """The source of one auditor."""

    def __init__(self, source: Source, *, timeout: float = TIMEOUT) -> None:
        self._source = source
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="audit")
        self._outage = Outage(log.warning, "cannot read the source; these checks count as not made")

    def read_of(self, key: str) -> Callable[[], Awaitable[Truth | None]] | None:
        """Return a function that reads the truth of this key, or None if the key cannot be audited."""
        try:
            read = self._source(key)
        except Exception as error:  # noqa: BLE001  it is the application's
            return partial(self._fail, key, error)
        return partial(self._read, key, read) if read else None

    def close(self) -> None:
        """Begin no further read; those under way end as the application's own reads do."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, key: str, read: Read) -> Truth | None:
        try:
            async with asyncio.timeout(self._timeout):
                truth = Truth.of(await asyncio.get_running_loop().run_in_executor(self._threads, read))
        except TimeoutError:
            await self._fail(key, TimeoutError(f"no answer within {self._timeout:g} s"))
            return None
        except Exception as error:  # noqa: BLE001  it is the application's
            await self._fail(key, error)
            return None
        self._outage.ends()
        return truth

    async def _fail(self, key: str, error: Exception) -> None:
        self._outage.lasts(f"{type(error).__name__}: {error}", kind=key.partition(":")[0])
