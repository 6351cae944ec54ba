"""The alert rules: each tested by promtool, explained in the runbook, and evaluated by a real Prometheus."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from invalidator_cli.main import COMMANDS

from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import eventually, publishing, settings_for, worker_process
from tests.servers import Broker, Prometheus, free_port, prometheus_is_installed

CONF = Path(__file__).parents[2] / "conf"
RULES = (CONF / "prometheus/invalidator.rules.yml").read_text()
RUNBOOK = (CONF / "runbook.rst").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    require("prometheus", installed=prometheus_is_installed())
    test = ["promtool", "test", "rules", "invalidator.rules.test.yml"]
    done = subprocess.run(test, cwd=CONF / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_test_and_a_section_in_the_runbook(alert: str) -> None:
    assert f'alertname="{alert}"' in (CONF / "prometheus/invalidator.rules.test.yml").read_text()
    (url,) = re.findall(rf'runbook_url: "(.*#{alert.lower()})"', RULES)
    parts = urlsplit(url)
    assert ("file", "runbook.rst") == (parts.scheme, Path(parts.path).name) and parts.path.startswith("/")
    assert re.search(rf"^{alert}\n-{{{len(alert)}}}\n", RUNBOOK, re.MULTILINE)


def test_the_runbook_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"^ +invalidator (\w+)|``invalidator (\w+)", RUNBOOK, re.MULTILINE))
    assert {command for match in named for command in match if command} <= COMMANDS.keys()


async def test_a_prometheus_that_scrapes_a_worker_sees_it_consume_and_fires_for_a_gap_and_a_dead_letter(
    broker: Broker, vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    """Fire for a gap: the worker's queue was deleted."""
    require("prometheus", installed=prometheus_is_installed())
    listen = f"127.0.0.1:{free_port()}"
    settings = settings_for(vhost, [memcached()], metrics={"listen": listen})
    with worker_process(settings, tmp_path), Prometheus(listen, folder=tmp_path / "prometheus") as prometheus:
        await eventually(lambda: prometheus.query('invalidator_consuming{cluster="eu"} == 1'), every=0.2)
        broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/invalidator.eu")
        await eventually(lambda: prometheus.firing() == {"InvalidatorGap"}, every=0.2)
        async with publishing(vhost) as shop:
            await shop.raw(b"no json")
        await eventually(lambda: prometheus.firing() == {"InvalidatorGap", "InvalidatorDeadLetters"}, every=0.2)
