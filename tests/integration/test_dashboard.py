"""The dashboard: each query finds data in a real Prometheus that scrapes a worker and an auditor at work."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from invalidator.runtime import metrics
from invalidator.settings import AuditSettings
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import Publishing, changed, eventually, publishing, settings_for, worker_process
from tests.integration.test_audit_service import auditing
from tests.servers import Memcached, Prometheus, free_port, prometheus_is_installed

DASHBOARD = json.loads((Path(__file__).parents[2] / "conf/grafana/invalidator.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def as_prometheus_takes_it(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$cluster", "eu")


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_names_metrics_that_exist(query: str) -> None:
    assert metrics.BACKLOG
    names = {name for metric in REGISTRY.collect() for name in _series(metric.name, metric.type)}
    assert set(re.findall(r"invalidator_\w+", query)) <= names


def test_no_two_panels_overlap_and_each_is_explained() -> None:
    panels = DASHBOARD["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    assert len(panels) == len({panel["id"] for panel in panels})


async def test_each_query_finds_data_of_a_worker_and_an_auditor_at_work(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    require("prometheus", installed=prometheus_is_installed())
    node, listens = memcached(), [f"127.0.0.1:{free_port()}" for _ in range(2)]
    audit = AuditSettings(source="shop:source", share=1.0, delays=[0.1, 1.0], account=str(tmp_path / "account.sqlite"))
    settings = settings_for(vhost, [node], audit=audit, metrics={"listen": listens[0]})
    listening = changed(settings, "metrics", listen=listens[1])
    (tmp_path / "auditor").mkdir()
    with (
        worker_process(settings, tmp_path),
        auditing(listening, tmp_path / "auditor"),
        Prometheus(*listens, folder=tmp_path / "prometheus") as prometheus,
    ):
        await eventually(lambda: prometheus.query("invalidator_consuming == 1"), every=0.2)
        await eventually(lambda: prometheus.query("invalidator_audit_listening == 1"), every=0.2)
        async with publishing(vhost) as shop:
            missing, number = set(QUERIES), 0
            while missing:  # the test's time limit ends it
                number += 1
                await shop.raw(b"no json")
                await plant(node, shop, f"product:{number}")
                await asyncio.sleep(0.5)
                missing = {query for query in missing if not prometheus.query(as_prometheus_takes_it(query))}
        # A worker must have no such series: it would be taken for an auditor that is blind.
        assert 1 == len(prometheus.query("invalidator_audit_listening"))


async def plant(node: Memcached, shop: Publishing, key: str) -> None:
    """Store an old value after the eviction."""
    node.set(key, b"to be evicted")
    await shop.update(key.removeprefix("product:"))
    await eventually(lambda: node.get(key) is None)
    node.set(key, b'"old"')


def _series(name: str, kind: str) -> list[str]:
    """Return the names of a metric's samples."""
    return [name, *(f"{name}_{end}" for end in ("total", "bucket", "count", "sum", "info"))]
