"""`invalidator audit` as a process: its account outlives it, and report and check show it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invalidator.settings import AuditSettings, Settings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import configuration, eventually, publishing, settings_for, working

COMMAND = Path(sys.executable).with_name("invalidator")
#: An application's module.
SHOP = """
def source(key):
    if key.startswith("product:"):
        return lambda: {"price": 109.99}
"""
OLD, NEW = b'{"price": 99.99}', b'{"price": 109.99}'


def audited(url: str, nodes: Any, folder: Path, **options: Any) -> Settings:
    chosen: dict[str, Any] = {"source": "shop:source", "share": 1.0, "delays": [0.1, 1.0], "reads": 100.0} | options
    return settings_for(url, nodes, audit=AuditSettings(account=str(folder / "account.sqlite"), **chosen))


@contextmanager
def auditing(settings: Settings, folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    (folder / "shop.py").write_text(SHOP)
    command: list[str | Path] = [COMMAND, "audit", "--config", configuration(settings, folder), *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def logged(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stderr
    while text not in (line := await asyncio.to_thread(process.stderr.readline)):
        assert line, "the auditor ended"
    return line


def ran(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, env=os.environ)


def report(settings: Settings, folder: Path) -> Any:
    done = ran("audit", "report", "-o", "json", "--config", configuration(settings, folder))
    return json.loads(done.stdout) if done.returncode == 0 else {"day": [], "stale": []}


async def test_a_stale_value_is_removed_and_reported_and_the_account_outlives_a_restart(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = audited(vhost, [node], tmp_path)

    def checked() -> int:
        return sum(line["checked"] for line in report(settings, tmp_path)["day"])

    async with working(settings), publishing(vhost) as shop:
        with auditing(settings, tmp_path) as auditor:
            await logged(auditor, "receiving product updates")
            await shop.update(1)
            await eventually(lambda: checked() == 4, every=0.2)  # its reviews are no key of the source
            auditor.send_signal(signal.SIGTERM)
            assert 0 == await asyncio.to_thread(auditor.wait, 60)
        with auditing(settings, tmp_path) as auditor:
            await logged(auditor, "receiving product updates")
            node.set("product:2", b"to be evicted")
            await shop.update(2)
            await eventually(lambda: node.get("product:2") is None)
            node.set("product:2", OLD)
            await logged(auditor, "a value stayed stale; removed it")
            assert node.get("product:2") is None
            await eventually(lambda: checked() == 8, every=0.2)
    found = report(settings, tmp_path)
    assert {"product:2": "written-back"} == {one["key"]: one["reason"] for one in found["stale"]}
    assert [1, 1] == [line["stale"] for line in found["day"]]
    assert all(0 < line["changes"]["stale_ratio_bound"] <= 1 for line in found["week"])
    table = ran("audit", "report", "--config", configuration(settings, tmp_path)).stdout
    assert "LAST DAY" in table and "within 1 s" in table and "written-back" in table
    checks = ran("check", "--config", configuration(settings, tmp_path)).stdout
    assert "stale values in a day: 1: product:2 on c1 (written-back); removed" in checks


async def test_without_repair_a_stale_value_stays_and_check_says_that_it_is_wrong(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = audited(vhost, [node], tmp_path)
    async with working(settings), publishing(vhost) as shop:
        with auditing(settings, tmp_path, "--no-repair") as auditor:
            await logged(auditor, "receiving product updates")
            node.set("product:1", b"to be evicted")
            await shop.update(1)
            await eventually(lambda: node.get("product:1") is None)
            node.set("product:1", OLD)
            await logged(auditor, "a value stays stale; it is not removed")
            await eventually(lambda: report(settings, tmp_path)["stale"], every=0.2)
            done = await asyncio.to_thread(ran, "check", "--config", configuration(settings, tmp_path))
    assert OLD == node.get("product:1")
    assert "stale values in a day: 1: product:1 on c1 (written-back)" in done.stdout


async def test_a_node_and_a_source_that_do_not_answer_lower_the_coverage(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node, down = memcached(), memcached()
    settings = audited(vhost, [node, down], tmp_path)
    down.kill()
    async with working(settings), publishing(vhost) as shop:
        with auditing(settings, tmp_path) as auditor:
            await logged(auditor, "receiving product updates")
            await shop.update(1, 2, 3)
            await eventually(lambda: report(settings, tmp_path)["day"], every=0.2)
    assert {0} == {line["checked"] for line in report(settings, tmp_path)["day"]}
    assert {0.0} == {line["coverage"] for line in report(settings, tmp_path)["day"]}


async def test_a_source_that_cannot_be_imported_is_named_and_exits_78(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    settings = audited(vhost, [memcached()], tmp_path, source="shop:nothing")
    with auditing(settings, tmp_path) as auditor:
        _, log = await asyncio.to_thread(auditor.communicate, timeout=60)
    assert 78 == auditor.returncode, log
    assert 'the source "shop:nothing" cannot be imported' in log


def test_a_report_without_an_account_names_its_file(tmp_path: Path) -> None:
    settings = audited("amqp://127.0.0.1:1/", {"c1": "127.0.0.1:1"}, tmp_path)
    done = ran("audit", "report", "--config", configuration(settings, tmp_path))
    assert 78 == done.returncode
    assert f"{tmp_path}/account.sqlite cannot be used" in done.stderr
