"""Runs a long-running service: signals, and a new configuration without a restart."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable

from invalidator.errors import InvalidatorError
from invalidator.runtime.logs import Log
from invalidator.runtime.systemd import Systemd

log = Log(__name__)

#: Works until the event is set, then stops cleanly.
Service = Callable[[asyncio.Event], Awaitable[None]]


def run(service: Service, *, reload: Callable[[], Service] | None = None, systemd: Systemd | None = None) -> None:
    """Run a service until it ends. The first SIGTERM or SIGINT stops it cleanly, the second ends the process at once.

    On SIGHUP ``reload`` returns the service that replaces this one, which is stopped cleanly first. If it raises an
    `InvalidatorError`, this service goes on, and the error is logged and reported to systemd.
    """
    # What is loaded by now stays loaded: a full collection that visited all of it would hold up events for 30 ms.
    gc.freeze()
    asyncio.run(_Run(service, reload, systemd or Systemd()).to_the_end())


class _Run:
    """A sequence of services, and the signals that end them."""

    def __init__(self, service: Service, reload: Callable[[], Service] | None, systemd: Systemd) -> None:
        self._next: Service | None = service
        self._reload = reload
        self._systemd = systemd
        self._stopping = asyncio.Event()
        self._is_last = False

    async def to_the_end(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if self._reload:
            loop.add_signal_handler(signal.SIGHUP, self._start_anew, self._reload)
        while self._next:
            service, self._next = self._next, None
            self._stopping = asyncio.Event()
            await service(self._stopping)

    def _stop(self) -> None:
        if self._is_last:
            log.warning("second signal: exiting now; the broker will redeliver unacknowledged messages")
            os._exit(0)
        self._is_last, self._next = True, None
        self._systemd.notify(STOPPING=1, STATUS="stopping")
        self._stopping.set()

    def _start_anew(self, reload: Callable[[], Service]) -> None:
        if self._is_last:
            return
        try:
            self._next = reload()
        except InvalidatorError as error:
            log.error("not reloaded; the old configuration stays in force", reason=str(error))
            self._systemd.remark = f"not reloaded: {error}"
        else:
            log.info("reloading; settling what is held before the new configuration is in force")
            self._systemd.remark = ""
            self._systemd.notify(RELOADING=1)
            self._stopping.set()
