"""What every long-running part shares: logs, signals, and the word to systemd."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal

import structlog

from invalidator.errors import InvalidatorError
from invalidator.runtime.systemd import Systemd

log = structlog.get_logger()

#: Works until the event is set, then stops in good order.
Service = Callable[[asyncio.Event], Awaitable[None]]

#: Libraries that say at length what we say in one line.
LIBRARIES = ("aio_pika", "aiormq", "asyncio", "pika")


def set_up_logs(*, level_name: str = "info", form: Literal["auto", "console", "json"] = "auto") -> None:
    """Log to standard error; "auto" is readable on a terminal, and one JSON object a line elsewhere."""
    level = logging.getLevelName(level_name.upper())
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if as_json:
        renderer: list[structlog.typing.Processor] = [
            structlog.processors.dict_tracebacks,
            _when_and_what_first,
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ)]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.DEBUG if level == logging.DEBUG else logging.CRITICAL)


def _when_and_what_first(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: line.pop(name) for name in ("timestamp", "level", "event")} | dict(line)


def run(service: Service, *, reload: Callable[[], Service] | None = None, systemd: Systemd | None = None) -> None:
    """Run a service until it ends or is told to: the first SIGTERM or SIGINT asks it, the second ends it at once.

    With ``reload``, SIGHUP asks for the service that is to go on in this one's place, once this one has stopped in good
    order. Where ``reload`` raises an `InvalidatorError`, this one goes on as if nothing had happened, and says why.
    """
    # What is loaded by now stays: a full collection that looked at it all would hold up events for 30 ms.
    gc.freeze()
    asyncio.run(_Run(service, reload, systemd or Systemd()).to_the_end())


class _Run:
    """Services one after the other, and the signals that end them."""

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
            log.warning("told twice: stopping at once; the broker delivers again what was not settled")
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
            log.error("not reloaded, the old configuration stays in force", reason=str(error))
            self._systemd.remark = f"not reloaded: {error}"
        else:
            log.info("reloading: what is held is settled, then the new configuration is in force")
            self._systemd.remark = ""
            self._systemd.notify(RELOADING=1)
            self._stopping.set()
