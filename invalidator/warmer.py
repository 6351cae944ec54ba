"""`invalidator warm`: reads hot keys again as soon as they are evicted, so that no customer waits for the first read.

    cache.purged ─> each key: is it hot? (the loader) ─> waiting, newest first ─> read again, so many in a second

The *loader* is a function of the application's. It is given a key, and returns what reads it again, or None where it is
not hot::

    def refill(key: str) -> Callable[[], object] | None:
        kind, _, id = key.partition(":")
        if kind == "product" and id in best_sellers:
            return lambda: product_cache.get(id)
        return None

Rules of this file:

1. Hot is what the loader says is. Workers know what changed and not what is read; the application does, be it a list of
   best sellers, a kind of key, or what its `LookAsideCache` counted (`Reads`) and one of its processes wrote down. To
   count reads for a warmer in another process would cost every hit, and a hit is to cost one command.
2. What is read goes through the application's own `LookAsideCache`, with its own ttl, serialiser and source: whatever
   customers do meanwhile, one of them fills. A plain ``set`` here would bring old values back.
3. A burst of evictions never becomes a burst of loads: no second sees more than `rate` reads begin, and no moment more
   than `concurrency` under way. Of keys that wait the newest is read first, and the oldest is dropped where there are
   too many: customers have most probably read it meanwhile. A key evicted again while it waits is read once.
4. A key missed is read by the next customer, so nothing here is kept through a lost connection or a stop.
"""

import asyncio
import pkgutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from invalidator.app.near.listener import listen
from invalidator.broker.messages import Announcement
from invalidator.errors import ConfigurationError
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.settings import BrokerSettings, Settings, WarmerSettings

#: Reads a key again, through a `LookAsideCache`.
Refill = Callable[[], object]
#: What reads a key again, or None where it is not hot. Called for every key that is evicted: it must not wait.
Loader = Callable[[str], Refill | None]

log = structlog.get_logger()


def loader_of(name: str | None) -> Loader:
    """The function that "package.module:function" names.

    Raises:
        ConfigurationError: there is none.
    """
    if name is None:
        raise ConfigurationError("no loader is named: --loader package.module:function, or warmer.loader")
    try:
        loader: Loader = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f'the loader "{name}" cannot be imported: {error}') from error
    if not callable(loader):
        raise ConfigurationError(f'the loader "{name}" is no function')
    return loader


class Waiting:
    """At most ``limit`` keys to be read again, the newest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._refills: OrderedDict[str, Refill] = OrderedDict()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._refills)

    def put(self, key: str, refill: Refill) -> None:
        self._refills[key] = refill
        self._refills.move_to_end(key)
        if len(self._refills) > self._limit:
            self._refills.popitem(last=False)
            metrics.WARMED.labels("dropped").inc()
        self._news.set()

    async def newest(self) -> tuple[str, Refill]:
        """Take it out, as soon as there is one."""
        while not self._refills:
            self._news.clear()
            await self._news.wait()
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
        self._waiting = Waiting(settings.waiting)
        self._is_linked = False

    # What the listener tells

    def linked(self) -> None:
        self._is_linked = True

    def lost(self) -> None:
        self._is_linked = False

    def received(self, announcement: Announcement) -> None:
        for key in announcement.keys:
            try:
                refill = self._loader(key)
            except Exception:
                log.exception("the loader failed; this key is left to customers", key=key)
                metrics.WARMED.labels("failed").inc()
                continue
            if refill:
                self._waiting.put(key, refill)

    # What is read again

    async def warm(self) -> None:
        """Read again what waits, until cancelled."""
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
            log.exception("a hot key could not be read again; it is left to customers", key=key)
            metrics.WARMED.labels("failed").inc()
        else:
            metrics.WARMED.labels("read").inc()
        finally:
            self._places.release()

    def health(self) -> Health:
        """For the metrics' page, and in one line for `systemctl status`."""
        state = "listening" if self._is_linked else "waiting for the broker"
        return Health(is_live=True, is_ready=self._is_linked, status=f"{state}; {len(self._waiting)} keys wait")


class Warming:
    """A warmer put together from its settings: `Warmer`, and the announcements that it receives."""

    def __init__(
        self, settings: Settings, refill: Loader, *, broker: Callable[[], BrokerSettings] | None = None
    ) -> None:
        """Connects nothing yet. ``broker`` is asked before every connection, so that a changed password is read."""
        self._cluster = settings.cluster
        self._read_broker = broker or (lambda: settings.broker)
        self._warmer = Warmer(settings.warmer, refill)
        self.health = self._warmer.health
        #: Set as soon as it runs: a warmer that waits for the broker has started.
        self.tried = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Warm until ``stopping`` is set. An absent broker is waited for."""
        self.tried.set()
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(listen(self._read_broker, self._cluster, self._warmer, role="warmer")),
                tasks.create_task(self._warmer.warm()),
            ]
            await stopping.wait()
            for part in parts:
                part.cancel()
