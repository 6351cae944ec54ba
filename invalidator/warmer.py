"""`invalidator warm`: reads hot keys again as soon as they are evicted, so that no customer waits for the first read.

    cache.purged ─> each key: is it hot? (the loader) ─> waiting, newest first ─> read again, at a limited rate

The *loader* is a function of the application. It gets a key, and returns a function that reads the key again, or None
if the key is not hot::

    def refill(key: str) -> Callable[[], object] | None:
        kind, _, id = key.partition(":")
        if kind == "product" and id in best_sellers:
            return lambda: product_cache.get(id)
        return None

Rules of this file:

1. The loader decides which keys are hot. Workers know what changed, but not what is read. The application does: from a
   list of best sellers, from the kind of key, or from the counts of its `LookAsideCache` (`Reads`) that one of its
   processes wrote down. Counting reads for a warmer in another process would cost every hit, and a hit costs one
   command.
2. Reads go through the application's own `LookAsideCache`, with its own ttl, serialiser and source: however many
   customers read meanwhile, one reader fills. A plain ``set`` here would bring old values back.
3. A burst of evictions never becomes a burst of loads: at most `rate` reads begin in a second, and at most
   `concurrency` are under way. The newest key is read first, and when too many wait, the oldest is dropped: customers
   have most probably read it meanwhile. A key evicted again while it waits is read once.
4. A missed key is read by the next customer, so nothing here survives a lost connection or a stop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from invalidator.app.near.listener import listen
from invalidator.broker.messages import Announcement
from invalidator.errors import ConfigurationError
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.runtime.named import function_named
from invalidator.settings import Settings, WarmerSettings

#: Reads a key again, through a `LookAsideCache`.
Refill = Callable[[], object]
#: Returns the function that reads a key again, or None if it is not hot. Called for every evicted key: must not block.
Loader = Callable[[str], Refill | None]

log = Log(__name__)


def loader_of(name: str | None) -> Loader:
    """Return the function that "package.module:function" names.

    Raises:
        ConfigurationError: no name is given, or it names no function that can be imported.
    """
    if name is None:
        raise ConfigurationError(
            "no loader is named: use --loader package.module:function, or the setting warmer.loader"
        )
    return function_named(name, "loader")


class Refills:
    """The keys to read again, newest first, at most ``limit`` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._refills: OrderedDict[str, Refill] = OrderedDict()
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._refills)

    def put(self, key: str, refill: Refill) -> None:
        self._refills[key] = refill
        self._refills.move_to_end(key)
        if len(self._refills) > self._limit:
            self._refills.popitem(last=False)
            metrics.WARMED.labels("dropped").inc()
        self._ready.set()

    async def newest(self) -> tuple[str, Refill]:
        """Wait for a key, and take the newest one."""
        while not self._refills:
            self._ready.clear()
            await self._ready.wait()
        return self._refills.popitem()


class Warmer:
    """One process of one cluster; a second one would read everything twice."""

    def __init__(
        self,
        settings: WarmerSettings,
        loader: Loader,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._loader = loader
        self._seconds_between = 1 / settings.rate
        self._sleep = sleep
        self._places = asyncio.Semaphore(settings.concurrency)
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="warmer")
        self._waiting = Refills(settings.waiting)
        self._is_linked = False

    # Called by the listener

    def linked(self) -> None:
        self._is_linked = True

    def lost(self) -> None:
        self._is_linked = False

    def received(self, announcement: Announcement) -> None:
        for key in announcement.keys:
            try:
                refill = self._loader(key)
            except Exception:
                log.exception("the loader failed; the next customer reads this key", key=key)
                metrics.WARMED.labels("failed").inc()
                continue
            if refill:
                self._waiting.put(key, refill)

    # Reading again

    async def warm(self) -> None:
        """Read waiting keys again, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._places.acquire()
                    key, refill = await self._waiting.newest()
                    tasks.create_task(self._read(key, refill))
                    await self._sleep(self._seconds_between)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, key: str, refill: Refill) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, refill)
        except Exception:
            log.exception("could not read a hot key again; the next customer reads it", key=key)
            metrics.WARMED.labels("failed").inc()
        else:
            metrics.WARMED.labels("read").inc()
        finally:
            self._places.release()

    def health(self) -> Health:
        """Return the warmer's health, for systemd and over HTTP."""
        state = "listening" if self._is_linked else "waiting for the broker"
        return Health(is_live=True, is_ready=self._is_linked, status=f"{state}; {len(self._waiting)} keys wait")


class Warming:
    """A warmer put together from its settings: `Warmer`, and the announcements that it receives."""

    def __init__(self, settings: Settings, refill: Loader, *, read: Callable[[], Settings] | None = None) -> None:
        """Take the settings; connect nothing yet.

        ``read`` is called before every connection, so that a changed password is read again.
        """
        self._cluster = settings.cluster
        self._read = read or (lambda: settings)
        self._warmer = Warmer(settings.warmer, refill)
        self.health = self._warmer.health
        #: Set as soon as it runs: a warmer that waits for the broker has started.
        self.tried = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Warm until ``stopping`` is set, and wait for an absent broker."""
        self.tried.set()
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(listen(lambda: self._read().broker, self._cluster, self._warmer, role="warmer")),
                tasks.create_task(self._warmer.warm()),
            ]
            await stopping.wait()
            for part in parts:
                part.cancel()
