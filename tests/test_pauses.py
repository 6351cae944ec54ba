"""The thread that states what came last, beside the threads that publish and close."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from invalidator.app import Publisher
from invalidator.broker.publish.blocking_publisher import BlockingPublisher
from invalidator.broker.publish.numbers import Numbers


class Connection:
    """An idle connection whose statement takes as long as the test wants."""

    def __init__(self) -> None:
        self.is_stating, self.may_end = threading.Event(), threading.Event()
        self.is_closed = False

    def is_open(self) -> bool:
        return True

    def state(self) -> bool:
        self.is_stating.set()
        return self.may_end.wait(20)

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


def test_nothing_is_left_to_state_for_a_user_who_may_not() -> None:
    numbers = Numbers("shop", clock=iter([0.0, 60.0]).__next__)
    numbers.take()
    assert not numbers.are_stated
    numbers.refuse("access refused")
    assert (True, False) == (numbers.are_stated, numbers.is_due()), "or a thread would wait for ever"
