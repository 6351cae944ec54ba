"""The publisher for threads alone: forks, connections that died meanwhile, one for each thread."""

import subprocess
import sys
import threading
import time

import pytest

from invalidator.app.publish.publisher import Publisher
from invalidator.errors import (
    UnreachableError,
)
from tests.integration.conftest import ProxyFactory
from tests.integration.publishers.kinds import EVENT, QUEUE, Threads
from tests.integration.shop import Publishing
from tests.servers import Broker


def test_a_forked_process_connects_again_and_leaves_its_parents_connection_alone(shop: Publishing, vhost: str) -> None:
    command = [sys.executable, "-c", FORKING, vhost]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "same connection\n"), done.stderr


#: In a process of its own: a test runner has threads, which a fork would lose.
FORKING = """
import os, sys
from invalidator.app import Publisher

with Publisher(sys.argv[1], timeout=20.0) as publisher:
    publisher.publish("product_updated", {"id": "of the parent"})
    [(_, connection)] = publisher._idle
    child = os.fork()
    publisher.publish("product_updated", {"id": "of both"})
    if child:
        assert os.waitpid(child, 0)[1] == 0
        publisher.publish("product_updated", {"id": "of the parent"})
        assert [connection] == [kept for _, kept in publisher._idle]
        print("same connection")
    else:
        assert connection not in [kept for _, kept in publisher._idle]
"""


async def test_a_connection_that_died_meanwhile_is_known_to_be_dead_so_the_error_is_no_maybe(
    shop: Publishing, vhost: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    publisher = Threads(vhost.replace(broker.address, way.address), timeout=20.0)
    await publisher.publish()
    await way.refuse()
    await way.reset()
    with pytest.raises(UnreachableError):
        await publisher.publish()
    assert await shop.ready(QUEUE) == 1


def test_a_connection_idle_for_long_is_replaced_before_it_is_used(
    shop: Publishing, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher(vhost, timeout=20.0) as publisher:
        publisher.publish("product_updated", EVENT)
        ((_, connection),) = publisher._idle
        publisher._idle = [(time.monotonic() - 3600, connection)]
        publisher.publish("product_updated", EVENT)
        assert connection not in [kept for _, kept in publisher._idle]
        assert connection._connection.is_closed


def test_threads_have_as_many_connections_as_publish_at_once(shop: Publishing, vhost: str) -> None:
    with Publisher(vhost, timeout=20.0) as publisher:
        together = threading.Barrier(4)

        def publish_some() -> None:
            together.wait()
            for _ in range(25):
                publisher.publish("product_updated", EVENT)

        threads = [threading.Thread(target=publish_some) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(publisher._idle) <= 4
