"""A service's reports to systemd, for units with ``Type=notify``: started, alive, and its state in one line."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage

#: Seconds between two reports.
TICK_SECONDS = 2.0

log = Log(__name__)


class Systemd:
    """The socket that systemd listens on; silent when systemd did not start this process.

    The protocol is that of sd_notify(3): one datagram of ``NAME=value`` lines to ``$NOTIFY_SOCKET``.
    """

    def __init__(self, address: str | None = None) -> None:
        address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        #: Put before every STATUS, until it is emptied.
        self.remark = ""
        self._outage = Outage(log.warning, "cannot notify systemd")

    def notify(self, **fields: str | int) -> bool:
        """Send fields such as ``READY=1`` and ``STATUS=…``; log a failure, as a lost report is not worth dying for.

        Return False if systemd did not get them. A systemd that reads nothing must not hold up the event loop.
        """
        if not self._address:
            return True
        if self.remark and "STATUS" in fields:
            fields["STATUS"] = f"{self.remark}; {fields['STATUS']}"
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
                notifier.setblocking(False)
                notifier.connect(self._address)
                notifier.sendall(message.encode())
        except OSError as error:
            self._outage.lasts(str(error))
            return False
        self._outage.ends()
        return True


class Reportable(Protocol):
    """A service that is reported on: a worker, a relay, a warmer."""

    @property
    def tried(self) -> asyncio.Event:
        """Set once the service has tried to reach what it depends on; systemd then counts it as started."""
        ...

    def health(self) -> Health: ...


@asynccontextmanager
async def reported(service: Reportable, systemd: Systemd) -> AsyncIterator[None]:
    """Report that the service has started, and that it is alive every `TICK_SECONDS`, until the context is left."""
    reports = [
        asyncio.create_task(_report_start(service, systemd)),
        asyncio.create_task(_feed_watchdog(service, systemd)),
    ]
    try:
        yield
    finally:
        for report in reports:
            report.cancel()
        await asyncio.gather(*reports, return_exceptions=True)


async def _report_start(service: Reportable, systemd: Systemd) -> None:
    await service.tried.wait()
    while not systemd.notify(READY=1, STATUS=service.health().status):  # noqa: ASYNC110  nobody tells when it reads
        await asyncio.sleep(TICK_SECONDS)


async def _feed_watchdog(service: Reportable, systemd: Systemd) -> None:
    was_live = True
    while True:
        health = service.health()
        if health.is_live:
            systemd.notify(WATCHDOG=1, STATUS=health.status)
        elif was_live:
            log.error("this service is stuck; systemd's watchdog will restart it", status=health.status)
        was_live = health.is_live
        await asyncio.sleep(TICK_SECONDS)
