"""The contestants: the raw limit and floor, our worker in its variants, and the libraries that people use instead."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.benchmarks import messages
from tests.benchmarks.messages import Template
from tests.benchmarks.stage import ROOT, Command, Place, declare_queue

OURS = "invalidator.eu"
WORKER = Path(sys.executable).with_name("invalidator")
PEERS_PYTHON = ROOT / ".dev" / "bench-venv" / "bin" / "python"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A consumer of one queue: how to make its queue, what to publish to it, and how to start it."""

    name: str
    queue: str = OURS
    queue_type: str = "quorum"
    #: Number of keys that one event evicts.
    keys: int = 1
    #: Number of nodes on which each key is deleted.
    copies: int = 1
    workers: int = 1

    @property
    def counts_itself(self) -> bool:
        """True if it writes a count to a file instead of evicting anything."""
        return False

    def declare(self, place: Place) -> None:
        declare_queue(place, self.queue, {"x-queue-type": self.queue_type})

    def template(self) -> Template:
        return messages.native(self.keys)

    def command(self, place: Place, number: int) -> Command:
        """Return the command that starts worker `number`."""
        raise NotImplementedError

    def company(self, place: Place) -> list[Command]:
        """Return the processes that run beside it and are not measured."""
        return []


@dataclass(frozen=True, kw_only=True)
class Limit(Contestant):
    """A raw socket that only counts and acknowledges deliveries."""

    @property
    def counts_itself(self) -> bool:
        return True

    def command(self, place: Place, number: int) -> Command:
        return _raw("count", place.url, self.queue, str(place.folder / f"count-{number}"))


@dataclass(frozen=True, kw_only=True)
class Floor(Contestant):
    """A raw socket that deletes one key after the other."""

    def command(self, place: Place, number: int) -> Command:
        return _raw("floor", place.url, self.queue, *place.nodes)


@dataclass(frozen=True, kw_only=True)
class Ours(Contestant):
    """Our worker with everything switched on: dead letters, metrics, and announcements that a client receives."""

    consumer: str = "tap"

    def declare(self, place: Place) -> None:
        declare_queue(place, self.queue, self._arguments())

    def command(self, place: Place, number: int) -> Command:
        configuration = place.folder / "eu.toml"
        configuration.touch(0o600)
        configuration.write_text(self.configuration(place))
        return Command([str(WORKER), "worker"], {"INVALIDATOR_CONFIG": str(configuration)})

    def company(self, place: Place) -> list[Command]:
        return [_raw("listen", place.url, "cache.purged", "eu")]

    def configuration(self, place: Place) -> str:
        nodes = ", ".join(f'"{node}"' for node in place.nodes)
        return CONFIGURATION.format(
            url=place.url,
            declare="active" if self.queue_type == "quorum" else "passive",
            consumer=self.consumer,
            evict_on="owner" if self.copies == 1 else "every-node",
            nodes=nodes,
        )

    def _arguments(self) -> dict[str, str]:
        if self.queue_type != "quorum":
            return {"x-queue-type": self.queue_type}
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{OURS}.dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }


@dataclass(frozen=True, kw_only=True)
class Peer(Contestant):
    """A library that people use instead, see `peers`. Its queue has the type on which it is fastest."""

    queue: str = "evictions"
    queue_type: str = "classic"
    #: The arguments for the interpreter of the peers' environment.
    arguments: tuple[str, ...]
    message: Literal["plain", "celery", "dramatiq"] = "plain"
    environment: tuple[tuple[str, str], ...] = ()

    def declare(self, place: Place) -> None:
        if self.queue_type != "classic":
            super().declare(place)
        elif self.message == "dramatiq":
            dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{self.queue}.XQ"}
            declare_queue(place, self.queue, dead)
        else:
            declare_queue(place, self.queue, {})

    def template(self) -> Template:
        return {"plain": messages.plain, "celery": messages.celery, "dramatiq": self._dramatiq}[self.message]()

    def command(self, place: Place, number: int) -> Command:
        surroundings = {
            "PYTHONPATH": str(ROOT),
            "BENCH_BROKER": place.url,
            "BENCH_QUEUE": self.queue,
            "BENCH_NODES": ",".join(place.nodes),
        }
        return Command([str(PEERS_PYTHON), *self.arguments], surroundings | dict(self.environment))

    def _dramatiq(self) -> Template:
        return messages.dramatiq(self.queue)


CONFIGURATION = """
cluster = "eu"
[broker]
url = "{url}"
declare = "{declare}"
consumer = "{consumer}"
[memcached]
evict_on = "{evict_on}"
[ring]
nodes = [{nodes}]
[[rule]]
on = "product_updated"
evict = ["product:{{id}}"]
[[rule]]
on = "product_moved"
evict = ["product:{{id}}", "product:{{id}}:reviews", "product:{{id}}:listing"]
[[rule]]
on = "products_imported"
evict = ["product:{{ids}}"]
"""


def _raw(*arguments: str) -> Command:
    return Command([sys.executable, "-m", "tests.benchmarks.raw", *arguments], {"PYTHONPATH": str(ROOT)})
