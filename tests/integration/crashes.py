"""Processes that are killed at a bad moment, many of them: `python -m tests.integration.crashes applications …`.

One process with no threads forks them all, so that a thousand take a minute. Each of them

    applications   commits an event to the outbox, rolls another one back, and is killed before it can do anything else
    relays         is killed at some moment of its first quarter of a second, at random
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import create_engine

from invalidator.app.outbox import Outbox
from invalidator.app.relay import Relay
from invalidator.events import Event
from invalidator.settings import load


def application(number: int, url: str) -> None:
    outbox, engine = Outbox(app_id="shop"), create_engine(url)
    with engine.connect() as connection:
        outbox.append(connection, Event("product_updated", {"id": f"phantom-{number}"}))
        connection.rollback()
        outbox.append(connection, Event("product_updated", {"id": number}))
        connection.commit()
        os.kill(os.getpid(), signal.SIGKILL)


def relay(_: int, configuration: str) -> None:
    asyncio.run(Relay(load(Path(configuration))).run(asyncio.Event()))


def crash(count: int, child: Callable[[int], None], *, within: float) -> None:
    """Fork `count` children, one after the other; kill each if it does not end by itself."""
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                child(number)
            finally:
                os._exit(1)
        if within:
            time.sleep(random.uniform(0, within))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, f"process {number} ended by itself: {status}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["applications", url, count]:
            crash(int(count), lambda number: application(number, url), within=0)
        case ["relays", configuration, count, seed]:
            random.seed(int(seed))
            crash(int(count), lambda number: relay(number, configuration), within=0.25)
