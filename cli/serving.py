"""The common part of commands that run until a signal: logs, metrics, systemd, a configuration that changes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from invalidator import settings
from invalidator.runtime import health, service
from invalidator.runtime.logs import Log, set_up_logs
from invalidator.runtime.systemd import Reportable, Systemd, reported
from invalidator.settings.schema import WORKER_PORT

from .options import SEARCHED

log = Log(__name__)


class Part(Reportable, Protocol):
    """A worker, a relay, a warmer."""

    async def run(self, stopping: asyncio.Event) -> None: ...


def serve(config: Path | None, make: Callable[..., Part], *, port: int = WORKER_PORT) -> None:
    """Run the part that ``make(settings, read=…)`` returns, and after SIGHUP the one for the new settings.

    ``read`` returns the settings with the passwords as they are configured at that moment. ``port`` is for metrics and
    health where the settings give none.
    """
    systemd = Systemd()
    _log_a_missing_file(config)

    def configured() -> service.Service:
        loaded = settings.load(config)
        part = make(loaded, read=lambda: settings.with_passwords_read_again(loaded, config))

        async def work(stopping: asyncio.Event) -> None:
            set_up_logs(level_name=loaded.log.level, form=loaded.log.format)
            async with (
                health.served(loaded.metrics.address(port), part.health, cluster=loaded.cluster),
                reported(part, systemd),
            ):
                await part.run(stopping)

        return work

    service.run(configured(), reload=configured, systemd=systemd)


def _log_a_missing_file(config: Path | None) -> None:
    """Log where a configuration file was looked for, before anything that it lacks ends the start."""
    if settings.find(config) is None:
        loaded = settings.load(config)
        set_up_logs(level_name=loaded.log.level, form=loaded.log.format)
        log.warning("no configuration file; using the defaults and the environment", searched=SEARCHED)
