"""`invalidator warm` as a process, beside a real worker: evicted hot keys are stored again before any reader asks."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invalidator.app.cache.lookaside import LookAsideCache
from invalidator.settings import Settings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import as_toml, eventually, publishing, settings_for, working

#: An application's module: its cache, its source, and its loader for hot keys.
SHOP = """
import os, threading, time
from pathlib import Path
from invalidator.app import LookAsideCache

cache = LookAsideCache([os.environ["NODE"]])
loads = Path(os.environ["LOADS"])
at_work = []

def product(key):
    def load():
        at_work.append(key)
        time.sleep(0.05)
        with loads.open("a") as file:
            print(key, len(at_work), file=file)
        at_work.remove(key)
        return "new"
    return cache.get_or_load(key, load, ttl=60)

def refill(key):
    if key.startswith("product:") and not key.endswith(":reviews"):
        return lambda: product(key)
"""


@contextmanager
def warming(settings: Settings, folder: Path, node: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    (folder / "shop.py").write_text(SHOP)
    file = folder / "warmer.toml"
    file.write_text(as_toml(settings))
    file.chmod(0o600)
    environ = {"NODE": node, "LOADS": str(folder / "loads"), "INVALIDATOR_METRICS__LISTEN": "off"}
    command = [str(Path(sys.executable).with_name("invalidator")), "warm", "--config", str(file)]
    process = subprocess.Popen(
        [*command, "--loader", "shop:refill", *options],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environ,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def listening(process: "subprocess.Popen[str]") -> None:
    assert process.stderr
    while "receiving announcements" not in (line := await asyncio.to_thread(process.stderr.readline)):
        assert line, "the warmer ended"


async def test_a_hot_key_is_stored_again_after_its_eviction_without_a_reader(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    reader = LookAsideCache([node.address])
    async with working(settings), publishing(vhost) as shop:
        with warming(settings, tmp_path, node.address) as process:
            await listening(process)
            reader.get_or_load("product:7", lambda: "old", ttl=60)
            reader.get_or_load("product:7:reviews", lambda: "old", ttl=60)
            await shop.update(7)
            await eventually((tmp_path / "loads").exists)
            assert reader.get_or_load("product:7", lambda: "by a customer", ttl=60) == "new"
            assert node.get("product:7:reviews") is None, "not hot"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0
    reader.close()


async def test_a_burst_of_evictions_is_no_burst_of_loads(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    limits = {"INVALIDATOR_WARMER__CONCURRENCY": "2", "INVALIDATOR_WARMER__WAITING": "20"}
    os.environ.update(limits)
    try:
        async with working(settings), publishing(vhost) as shop:
            with warming(settings, tmp_path, node.address) as process:
                await listening(process)
                await shop.update(*range(500))
                await shop.update("last")
                await eventually(lambda: node.get("product:last"))
                await eventually(lambda: len((tmp_path / "loads").read_text().splitlines()) >= 10)
    finally:
        for name in limits:
            del os.environ[name]
    lines = [line.split() for line in (tmp_path / "loads").read_text().splitlines()]
    assert len(lines) < 500, "what was too much is left to customers"
    assert max(int(at_work) for _, at_work in lines) <= 2


async def test_a_loader_that_cannot_be_imported_is_named_and_exits_78(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    with warming(settings_for(vhost, [memcached()]), tmp_path, "127.0.0.1:1", "--loader", "shop:nothing") as process:
        _, log = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 78
    assert 'the loader "shop:nothing" cannot be imported' in log
