"""The three pages, requested over HTTP from another thread, as Prometheus does."""

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner
from invalidator_cli.main import main

from invalidator.runtime import metrics
from invalidator.runtime.health import LOOP_SECONDS, Health, served
from tests.logs import capture_logs
from tests.servers import free_port

WELL = Health(is_live=True, is_ready=True, status="consuming")
WAITING = Health(is_live=True, is_ready=False, status="waiting for the broker")
STUCK = Health(is_live=False, is_ready=True, status="consuming")


class Pages:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    async def __call__(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self.get, path)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()


@asynccontextmanager
async def pages(health: Health) -> AsyncIterator[Pages]:
    port = free_port()
    async with served(("127.0.0.1", port), lambda: health, cluster="eu"):
        yield Pages(port)


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [(WELL, 200, 200), (WAITING, 200, 503), (STUCK, 503, 200)],
    ids=str,
)
async def test_live_and_ready_show_the_health_of_the_service(health: Health, live: int, ready: int) -> None:
    async with pages(health) as get:
        assert [(live, f"{health.status}\n"), (ready, f"{health.status}\n")] == [
            await get("/live"),
            await get("/ready"),
        ]


async def test_every_metric_carries_the_cluster() -> None:
    metrics.ABOUT.info({"version": "1", "cluster": "eu"})
    async with pages(WELL) as get:
        for path in ("/metrics", "/metrics?name[]=invalidator_received_total"):
            _, text = await get(path)
            samples = [line for line in text.splitlines() if line and not line.startswith("#")]
            assert samples and [] == [line for line in samples if 'cluster="eu"' not in line]


async def test_metrics_are_in_prometheus_text_format() -> None:
    metrics.RECEIVED.inc(0)
    async with pages(WELL) as get:
        status, text = await get("/metrics")
    assert status == 200
    assert "# TYPE invalidator_received_total counter" in text


async def test_another_page_names_those_that_are_there() -> None:
    async with pages(WELL) as get:
        assert (404, "there are /metrics, /live and /ready\n") == await get("/")


async def test_a_loop_that_hangs_is_not_live() -> None:
    async with pages(WELL) as get:
        answers: list[tuple[int, str]] = []
        asking = threading.Thread(target=lambda: answers.append(get.get("/live")))
        asking.start()
        asking.join(LOOP_SECONDS + 5)  # in the loop's own thread: it hangs meanwhile
    assert [(503, "the event loop does not answer\n")] == answers


async def test_a_port_that_is_taken_is_logged_as_an_error_and_does_not_end_the_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, capture_logs() as logs:
        address = other.getsockname()
        async with served(address, lambda: WELL, cluster="eu"):
            pass
    assert [("error", f"127.0.0.1:{address[1]}")] == [(line["log_level"], line["listen"]) for line in logs]
    assert "metrics.listen" in logs[0]["event"]


async def test_the_port_is_free_again_at_the_end() -> None:
    port = free_port()
    for _ in range(2):
        async with served(("127.0.0.1", port), lambda: WELL, cluster="eu"):
            assert (200, "consuming\n") == await Pages(port)("/live")


async def test_nothing_is_served_without_an_address() -> None:
    with capture_logs() as logs:
        async with served(None, lambda: WELL, cluster="eu"):
            pass
    assert logs == []


def test_a_node_that_is_gone_leaves_no_gauge_behind() -> None:
    for nodes in (["old"], ["new"]):
        metrics.begin(cluster="eu", nodes=nodes, is_consuming=lambda: True, is_waiting=lambda: False)
    for gauge in (metrics.BREAKER_OPEN, metrics.DEBTS):
        assert [("new", 0.0)] == [(s.labels["node"], s.value) for metric in gauge.collect() for s in metric.samples]


@pytest.mark.parametrize("command", ["worker", "warm", "relay", "follow"])
def test_a_service_has_a_port_of_its_own_by_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ports: dict[str, int] = {}
    monkeypatch.setattr("invalidator_cli.serving.serve", lambda *_, port: ports.setdefault(command, port))
    assert 0 == CliRunner().invoke(main, [command]).exit_code
    assert ports == {command: {"worker": 9871, "warm": 9872, "relay": 9873, "follow": 9874}[command]}
