"""Processes that are killed at a bad moment, many of them: `python -m tests.integration.crashes applications …`.

One process with no threads forks them all, so that a thousand take a minute. Each of them

    applications   commits an event to the outbox, rolls another one back, and is killed before it can do anything else
    relays         is killed at a random moment after it began to publish, most often before it has forgotten
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

from invalidator.app.publish.outbox import Outbox, Waiting
from invalidator.errors import InvalidatorError
from invalidator.events.event import Event
from invalidator.relay import Relay
from invalidator.settings import load

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


class Telling(Relay):
    """Says when it begins to publish."""

    told: int

    async def _publish(self, events: list[Waiting]) -> tuple[list[Waiting], InvalidatorError | None]:
        if events:
            os.write(self.told, b"!")
        return await super()._publish(events)


def relay(configuration: str, told: int) -> None:
    relay = Telling(load(Path(configuration)))
    relay.told = told
    asyncio.run(relay.run(asyncio.Event()))


def forked(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)
    return pid


def buried(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, f"a process ended by itself: {status}"


def crash_applications(url: str, count: int) -> None:
    for number in range(count):
        buried(forked(partial(application, number, url)))


def crash_relays(configuration: str, count: int) -> None:
    for _ in range(count):
        heard, told = os.pipe()
        pid = forked(partial(relay, configuration, told))
        os.close(told)
        os.read(heard, 1)  # returns too where the relay ends by itself
        os.close(heard)
        time.sleep(random.uniform(0, MOMENT))
        os.kill(pid, signal.SIGKILL)
        buried(pid)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["applications", url, count]:
            crash_applications(url, int(count))
        case ["relays", configuration, count, seed]:
            random.seed(int(seed))
            crash_relays(configuration, int(count))
