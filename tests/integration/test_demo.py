"""The whole story on real servers, as `./dev demo` tells it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable

import pika
import pytest
from invalidator_cli.demo import audited, warming
from invalidator_cli.demo.measure import StaleError
from invalidator_cli.demo.workers import Workers, WorkersError
from pika.adapters.blocking_connection import BlockingConnection

from tests.integration.conftest import MemcachedFactory
from tests.servers import Broker, free_port


def consumers(vhost: str, cluster: str) -> int:
    """Return the number of consumers of that cluster's queue."""
    with BlockingConnection(pika.URLParameters(vhost)) as connection:
        count: int = connection.channel().queue_declare(f"invalidator.{cluster}", passive=True).method.consumer_count
        return count


def demo(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "invalidator_cli.main", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"},
    )


def nodes(memcached: MemcachedFactory, count: int) -> str:
    return ",".join(memcached().address for _ in range(count))


@pytest.mark.parametrize("opens", [True, False], ids=["management", "no management"])
def test_demo_tells_the_story_stays_and_leaves_no_worker_behind(
    opens: bool, broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    eu, us = nodes(memcached, 3), nodes(memcached, 3)
    management = broker.management_url if opens else f"http://127.0.0.1:{free_port()}"
    servers = ["--broker", vhost, "--management", management, "--eu", eu, "--us", us]
    with demo(*servers, "--polls", "1", "--updates", "10", "--stay") as process:
        assert process.stdout
        output = _read_until(process.stdout, "publish product_updated id=1")
        try:
            assert [consumers(vhost, "eu"), consumers(vhost, "us")] == [2, 2]
        finally:
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait() == 0, output + rest
    story = " ".join(output.split())
    assert "no copy is left on any of them" in story
    assert "memcached itself counted 20 evictions of 20 old copies" in story
    assert [line[:10].strip() for line in output.splitlines() if " of " in line and line[:1].isdigit()] == [
        "1 nothing",
        "2 polling",
        "3 local bu",
        "4 RabbitMQ",
    ]
    assert "Plain look-aside: the next customer sees 99.99" in story
    assert "Through LookAsideCache: the next customer sees 109.99" in story
    warmed = [line.split() for line in output.splitlines() if " warming o" in line and " of " in line]
    assert [line[-9:-7] for line in warmed] == 2 * [["warming", "off"], ["warming", "on"]]
    assert [int(line[-6]) for line in warmed[::2]] == [0, 0]
    assert sum(int(line[-6]) for line in warmed[1::2]) > 0, output
    assert "Now the next one sees 109.99 again" in story
    assert "was written-back: the eviction was announced" in story
    assert (f"{management}  (user guest, password guest)" in output) == opens
    assert "\x1b" not in output
    assert [consumers(vhost, "eu"), consumers(vhost, "us")] == [0, 0]


def test_worker_that_dies_is_named_with_its_log(vhost: str, memcached: MemcachedFactory) -> None:
    clusters = {"no cluster": [("127.0.0.1", memcached().port)]}
    with Workers(vhost, clusters, each=1) as workers, pytest.raises(WorkersError, match=r"(?s)status 78: .*cluster"):
        workers.wait_until_ready()


def test_warmer_that_dies_is_named_with_its_log(
    monkeypatch: pytest.MonkeyPatch, vhost: str, memcached: MemcachedFactory
) -> None:
    monkeypatch.setattr(warming, "PACES", ())
    monkeypatch.setattr(warming, "LOADER", "no.such:loader")
    nodes = [("127.0.0.1", memcached().port)]
    with Workers(vhost, {"eu": nodes}, each=1) as workers:
        workers.wait_until_ready()
        with pytest.raises(WorkersError, match=r"(?s)^warmer-eu exited with status 78: .*no.such:loader"):
            warming.warming(workers, nodes, vhost, print)


def test_auditor_that_dies_is_named_with_its_log(
    monkeypatch: pytest.MonkeyPatch, vhost: str, memcached: MemcachedFactory
) -> None:
    monkeypatch.setattr(audited, "SOURCE", "no.such:source")
    nodes = [("127.0.0.1", memcached().port)]
    with Workers(vhost, {"eu": nodes}, each=1) as workers:
        workers.wait_until_ready()
        with pytest.raises(WorkersError, match=r"(?s)^auditor-eu exited with status 78: .*no.such:source"):
            audited.audit(workers, nodes, vhost, print)


def test_old_price_that_nobody_removes_ends_the_story(
    monkeypatch: pytest.MonkeyPatch, vhost: str, memcached: MemcachedFactory
) -> None:
    monkeypatch.setattr(audited, "DEADLINE", 0.5)  # shorter than the auditor takes
    nodes = [("127.0.0.1", memcached().port)]
    with Workers(vhost, {"eu": nodes}, each=1) as workers:
        workers.wait_until_ready()
        with pytest.raises(StaleError, match="product 1 was not removed by the auditor within 500 ms"):
            audited.audit(workers, nodes, vhost, print)


@pytest.mark.parametrize("missing", ["broker", "memcached"])
def test_server_that_does_not_answer_is_named_before_the_first_act(
    missing: str, vhost: str, memcached: MemcachedFactory
) -> None:
    node, closed = memcached(), free_port()
    servers = ["--broker", vhost, "--eu", node.address, "--us", node.address]
    if missing == "broker":
        servers[1] = f"amqp://127.0.0.1:{closed}/"
    else:
        node.kill()
    with demo(*servers) as process:
        output = process.communicate()[0]
    assert process.returncode == 69, output
    assert f"127.0.0.1:{closed if missing == 'broker' else node.port}" in output
    assert "Act 1" not in output
    assert "Traceback" not in output


def _read_until(lines: Iterable[str], end: str) -> str:
    output = ""
    for line in lines:
        output += line
        if end in line:
            return output
    raise AssertionError(f"the demo ended before it printed {end!r}:\n{output}")
