"""The thread that states what came last, beside the threads that publish and close."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from invalidator.app import Publisher
from invalidator.broker.publish.blocking_publisher import BlockingPublisher


class Connection:
    """An idle connection whose statement takes as long as the test wants."""

    def __init__(self) -> None:
        self.is_stating, self.may_end = threading.Event(), threading.Event()
        self.is_closed = False

    def is_open(self) -> bool:
        return True

    def state(self) -> None:
        self.is_stating.set()
        assert self.may_end.wait(20)

    def close(self) -> None:
        self.is_closed = True


def test_closing_waits_for_a_statement_under_way_and_closes_its_connection_too() -> None:
    publisher, connection = Publisher("amqp://127.0.0.1:1/"), Connection()
    publisher._put_back(cast(BlockingPublisher, connection))
    with ThreadPoolExecutor() as threads:
        stating = threads.submit(publisher._state)
        assert connection.is_stating.wait(20)
        closing = threads.submit(publisher.close)
        time.sleep(0.01)
        connection.may_end.set()
        closing.result(20)
    assert (True, True) == (stating.result(), connection.is_closed)
