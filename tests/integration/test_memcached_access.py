"""memcached -Z -Y: real nodes that speak TLS and ask who we are, and every slip with its reason."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from invalidator.settings import Secret
from tests.integration.aftermath import Trial, trial
from tests.integration.certificates import Authority
from tests.integration.conftest import require
from tests.integration.shell import Shell
from tests.integration.shop import changed, eventually, settings_for, working
from tests.servers import Broker, SecureMemcached, memcached_has_tls, memcached_is_installed

SecureFactory = Callable[..., SecureMemcached]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.issue("server", "127.0.0.1", "cache.shop.internal")
    return made


@pytest.fixture
def secure() -> Iterator[SecureFactory]:
    """`secure(tls=folder)` starts a node that ends with the test."""
    require("memcached", installed=memcached_is_installed())
    started: list[SecureMemcached] = []

    def start(*, tls: Path | None = None) -> SecureMemcached:
        if tls and not memcached_has_tls():
            pytest.skip("this memcached is built without TLS")
        node = SecureMemcached(tls=tls)
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.close()


def access(authority: Authority | None = None, password: str = "hush") -> dict[str, Any]:
    tls = {"tls": True, "tls_ca": str(authority.ca_file)} if authority else {}
    return {"user": "shop", "password": Secret(password), "deadline": 3.0} | tls


@pytest.mark.parametrize("with_tls", [True, False])
async def test_a_worker_evicts_on_nodes_that_ask_who_it_is_and_pays_what_it_owes(
    with_tls: bool, vhost: str, secure: SecureFactory, authority: Authority
) -> None:
    nodes = [secure(tls=authority.folder if with_tls else None) for _ in range(2)]
    settings = settings_for(vhost, nodes, memcached=access(authority if with_tls else None))
    async with trial(settings, nodes) as (shop, _):
        shop.fill(*range(1500))
        await shop.publish(*range(1500))
        nodes[1].kill()
        await shop.publish("while-down")
        await shop.is_owed("c2")
        nodes[1].start()


SLIPS: list[tuple[dict[str, Any], str, str]] = [
    ({"password": Secret("wrong")}, "it answers user and password with b'CLIENT_ERROR authentication fail", "user"),
    ({"user": None, "password": None}, "CLIENT_ERROR unauthenticated", "memcached.user"),
    ({"tls": False, "tls_ca": None}, "", "memcached.tls"),
    ({"tls_ca": None}, "not signed by a CA that is trusted here: see tls_ca", "tls_ca"),
    ({"tls_server_name": "other"}, "its certificate is for another name", "tls_server_name"),
]


@pytest.mark.parametrize(("slip", "reason", "mend"), SLIPS, ids=["password", "login", "tls", "ca", "name"])
async def test_a_slip_is_named_with_its_mend_and_its_keys_are_parked(
    slip: dict[str, Any], reason: str, mend: str, vhost: str, broker: Broker, secure: SecureFactory,
    authority: Authority, tmp_path: Path,
) -> None:  # fmt: skip
    settings = changed(
        settings_for(vhost, [secure(tls=authority.folder)], memcached=access(authority)), "memcached", **slip
    )
    async with working(settings) as worker:
        shop = Trial(settings, [])
        await shop.publish(7)
        await shop.is_owed("c1")
        await eventually(lambda: "unreachable: c1" in worker.status())
        done = await Shell(settings, broker, tmp_path).run("check", "-o", "json")
    (node,) = [finding for finding in json.loads(done.stdout) if finding["what"] == "node"]
    assert reason in node["text"]
    assert mend in f"{node['text']} {node['mend']}"


async def test_commands_that_go_to_nodes_themselves_are_let_in(
    vhost: str, broker: Broker, secure: SecureFactory, authority: Authority, tmp_path: Path
) -> None:
    node = secure(tls=authority.folder)
    settings = settings_for(vhost, [node], memcached=access(authority) | {"tls_server_name": "cache.shop.internal"})
    shell = Shell(settings, broker, tmp_path)
    node.set("product:7", b"old")
    done = await shell.run("evict", "product:7", "--direct", "-o", "json")
    assert (0, None) == (done.returncode, node.get("product:7"))
    node.set("product:7", b"old")
    done = await shell.run("explain", "--key", "product:7", "-o", "json")
    assert (0, True) == (done.returncode, json.loads(done.stdout)["nodes"][0]["present"])
    assert 0 == (await shell.run("flush", "--yes")).returncode
    assert node.get("product:7") is None


async def test_an_expired_certificate_is_named(
    vhost: str, broker: Broker, secure: SecureFactory, authority: Authority, tmp_path: Path
) -> None:
    authority.issue("server", "127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    settings = settings_for(vhost, [secure(tls=authority.folder)], memcached=access(authority))
    done = await Shell(settings, broker, tmp_path).run("evict", "product:7", "--direct")
    assert 75 == done.returncode
    assert "its certificate has expired: renew it there" in done.stdout
