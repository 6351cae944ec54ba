"""The servers of a run, and the settings and programs of the workers on them."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invalidator.settings import EventLogSettings, ManagementSettings, Settings
from tests.faults.cast import Worker
from tests.integration.shop import changed, configuration, settings_for
from tests.servers import Broker, Memcached


@dataclass(frozen=True)
class Stage:
    """The servers of a run."""

    #: Workers know all of them, and use the first one. Publishers and this process use the last one.
    brokers: Sequence[Broker]
    eu: Sequence[Memcached]
    us: Sequence[Memcached]
    folder: Path
    #: Events a second.
    rate: float = 500.0
    #: Name of a fault that is built into the workers.
    sabotage: str = ""

    @property
    def broker(self) -> Broker:
        return self.brokers[-1]

    def settings(self, vhost: str, cluster: str, nodes: Collection[Memcached], **more: Any) -> Settings:
        """Return the settings of a cluster whose workers know all broker nodes."""
        first, *others = self.brokers
        broker = {"alternates": [other.address for other in others]} | more.pop("broker", {})
        log = EventLogSettings(enabled=True, **more.pop("event_log", {}))
        management = ManagementSettings(url=self.broker.management_url)
        more |= {"broker": broker, "event_log": log, "management": management}
        settings = settings_for(first.url(vhost), list(nodes), cluster=cluster, **more)
        return changed(settings, "log", format="json")

    def worker(self, number: int, settings: Settings, folder: Path) -> Worker:
        """Return a worker that was not started."""
        folder.mkdir(parents=True, exist_ok=True)
        way = ["tests.faults.healing.sabotage", self.sabotage] if self.sabotage else ["invalidator"]
        file = str(configuration(settings, folder))
        return Worker(number, [sys.executable, "-m", *way, "worker", "--config", file], folder)
