"""The place of one measurement of the follower: a vhost, a database with a slot, and the processes that it starts."""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from invalidator.follow import setup
from invalidator.operate.topology import declared
from invalidator.settings import FollowSettings, LogSettings, RuleSettings, Secret, Settings
from tests.benchmarks.stage import NODE_ARGUMENTS, Command, Process
from tests.integration.shop import configuration, settings_for
from tests.servers import Broker, Memcached, Postgres

SCHEMA = "CREATE TABLE {} (id text PRIMARY KEY, price numeric(10,2), name text, seen timestamptz DEFAULT now())"
#: Number of a change -> the time at which it was committed or published, in seconds of the system's clock.
Times = dict[int, float]
#: Seconds that anything may take.
LONGEST = 600.0


class Servers:
    """The servers of a run: the database's disk is real, the broker's too."""

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self.broker = self._stack.enter_context(Broker())
        self.database = self._stack.enter_context(Postgres("-c", "wal_level=logical", "-c", "fsync=on"))
        self.node = self._stack.enter_context(Memcached(*NODE_ARGUMENTS))
        self._places = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def place(self, *tables: str, **more: Any) -> Iterator["Place"]:
        """Yield a place with these tables, a rule on each, and `more` sections of settings."""
        self._places += 1
        name = f"follow_{self._places}"
        settings = settings_for(self.broker.add_vhost(name), [self.node], **more)
        settings = msgspec.structs.replace(
            settings,
            follow=FollowSettings(url=Secret(self.database.add_database(name)), slot=name),
            log=LogSettings(level="error"),
            rule=[*settings.rule, *map(rule_on, tables)],
        )
        with tempfile.TemporaryDirectory(prefix="invalidator-") as folder, contextlib.ExitStack() as stack:
            place = Place(self, name, settings, Path(folder), stack)
            self.node.flush()
            for table in tables:
                place.sql(SCHEMA.format(table))
            asyncio.run(declared(settings))
            asyncio.run(setup.create(settings))
            yield place
        self._drop_slots(name)
        self.database.drop_database(name)
        self.broker.delete_vhost(name)

    def _drop_slots(self, database: str) -> None:
        """Drop the slots of killed followers, once the server has noticed that these are gone."""
        slots = f"FROM pg_replication_slots WHERE database = '{database}'"
        wait(lambda: self.database.sql(f"SELECT count(active_pid) {slots}") == "0")
        self.database.sql(f"SELECT pg_drop_replication_slot(slot_name) {slots}")


class Place:
    """A vhost with a cluster's queue, and a database whose tables have a publication and a slot."""

    def __init__(
        self, servers: Servers, name: str, settings: Settings, folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self.servers = servers
        self.name = name
        self.settings = settings
        self.queue = f"{settings.broker.prefix}.{settings.cluster}"
        self.folder = folder
        self._stack = stack

    def sql(self, statement: str) -> str:
        return self.servers.database.sql(statement, database=self.name)

    @property
    def url(self) -> str:
        return self.servers.database.url(self.name)

    def start(self, command: str, *, settings: Settings | None = None, sabotage: str = "") -> Process:
        """Start one of our services with these settings; it is killed at the end of the place."""
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        module = ["tests.faults.followed.sabotage", sabotage] if sabotage else ["invalidator"]
        config = str(configuration(settings or self.settings, folder))
        process = Process(Command([sys.executable, "-m", *module, command, "--config", config], {}), log=folder / "log")
        self._stack.callback(process.kill)
        return process

    def slot(self, what: str, *, slot: str = "") -> str:
        """Return an expression on the slot's row."""
        return self.sql(f"SELECT {what} FROM pg_replication_slots WHERE slot_name = '{slot or self.name}'")


def milliseconds(began: Times, gone: Times) -> list[float]:
    return [(gone[number] - at) * 1000 for number, at in began.items()]


def rule_on(table: str) -> RuleSettings:
    return RuleSettings(on=f"changed:public.{table}", evict=["product:{id}"])


def wait(condition: Callable[[], bool], *processes: Process, every: float = 0.02) -> None:
    """Wait until a condition is true; raise StalledError if a process ends before."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        for process in processes:
            process.check()
        assert time.monotonic() < deadline, f"not so within {LONGEST:.0f} s"
        time.sleep(every)
