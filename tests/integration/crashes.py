"""Processes that are killed at a bad moment, many of them: `python -m tests.integration.crashes applications …`.

One process without threads forks them all, so that a thousand take a minute. Each of them

    applications   commits an event to the outbox, rolls another one back, and is killed before it can do anything else
    relays         is killed at a random moment after it began to publish, most often before it has deleted the rows
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import create_engine

from invalidator.app.publish.outbox import Outbox, OutboxEvent
from invalidator.events.event import Event
from invalidator.relay.relay import Channel, Relay
from invalidator.settings import BrokerSettings, load

#: Seconds that publishing a few events may take.
MOMENT = 0.03


def application(number: int, url: str) -> None:
    outbox, engine = Outbox(app_id="shop"), create_engine(url)
    with engine.connect() as connection:
        outbox.append(connection, Event("product_updated", {"id": f"phantom-{number}"}))
        connection.rollback()
        outbox.append(connection, Event("product_updated", {"id": number}))
        connection.commit()
        os.kill(os.getpid(), signal.SIGKILL)


class Signalling(Relay):
    """A relay that writes to a pipe when it begins to publish."""

    pipe: int

    def _channel(self) -> Channel:
        return SignallingChannel(self._read().broker, self.pipe)


class SignallingChannel(Channel):
    def __init__(self, broker: BrokerSettings, pipe: int) -> None:
        super().__init__(broker)
        self._pipe: int | None = pipe

    async def publish(self, event: OutboxEvent) -> None:
        if self._pipe is not None:
            os.write(self._pipe, b"!")
            self._pipe = None
        await super().publish(event)


def relay(configuration: str, pipe: int) -> None:
    relay = Signalling(load(Path(configuration)))
    relay.pipe = pipe
    asyncio.run(relay.run(asyncio.Event()))


def forked(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)
    return pid


def reaped(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, f"a process ended by itself: {status}"


def crash_applications(url: str, count: int) -> None:
    for number in range(count):
        reaped(forked(partial(application, number, url)))


def crash_relays(configuration: str, count: int) -> None:
    for _ in range(count):
        reading, writing = os.pipe()
        pid = forked(partial(relay, configuration, writing))
        os.close(writing)
        os.read(reading, 1)  # returns too if the relay ends by itself
        os.close(reading)
        time.sleep(random.uniform(0, MOMENT))
        os.kill(pid, signal.SIGKILL)
        reaped(pid)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["applications", url, count]:
            crash_applications(url, int(count))
        case ["relays", configuration, count, seed]:
            random.seed(int(seed))
            crash_relays(configuration, int(count))
