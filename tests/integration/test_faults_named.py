"""Faults that an operator meets at 3 a.m., each provoked: the first screen of `invalidator check` names the cause."""

import asyncio
import math
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from invalidator.broker.topology import Topology
from invalidator.settings import RuleSettings, Secret, Settings
from tests.integration.aftermath import alarm, consumers
from tests.integration.certificates import Authority
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shell import Shell
from tests.integration.shop import changed, publishing, settings_for, working
from tests.servers import Broker, Memcached, SecureMemcached, free_port, memcached_has_tls, rabbitmq_is_installed

#: A terminal of the default size.
ROWS, COLUMNS = 24, 80
#: Connections that each node takes.
CONNECTIONS = 100
#: Seconds in which the cause must be named, on a busy machine.
WITHIN = 60.0
TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@dataclass
class Stage:
    """A healthy cluster with its worker, for a test to break."""

    broker: Broker
    vhost: str
    nodes: list[Memcached]
    settings: Settings
    shell: Shell
    authority: Authority
    #: Ends the stage, and undoes changes that outlive it.
    exit: AsyncExitStack
    _worker: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start_worker(self, settings: Settings | None = None) -> None:
        """Start a worker with these settings in place of the one before. The shell gets them too."""
        await self.stop_worker()
        self.settings = settings or self.settings
        self.shell.configure(self.settings)
        await self._worker.enter_async_context(working(self.settings))

    async def stop_worker(self) -> None:
        await self._worker.aclose()

    def configure(self, section: str, **fields: Any) -> None:
        """Change the settings of the shell only."""
        self.shell.configure(changed(self.settings, section, **fields))

    def api(self, method: str, path: str, body: Any = None) -> Any:
        return self.broker.api(method, path.replace("VHOST", self.vhost), body)

    def policy(self, **definition: Any) -> None:
        body = {"pattern": r"^invalidator\.eu\.dead$", "definition": definition, "apply-to": "queues", "priority": 0}
        self.api("PUT", "/policies/VHOST/test", body)

    def user(self, **permissions: str) -> None:
        """Let the shell use a user with only these permissions."""
        name = f"check-{uuid.uuid4().hex[:8]}"
        self.api("PUT", f"/users/{name}", {"password": "secret", "tags": "monitoring"})
        self.exit.callback(self.api, "DELETE", f"/users/{name}")
        if permissions:
            everything = dict.fromkeys(("configure", "write", "read"), ".*")
            self.api("PUT", f"/permissions/VHOST/{name}", everything | permissions)
        url = self.settings.broker.url.replace("guest:guest@", f"{name}@")
        self.configure("broker", url=url, password=Secret("secret"))

    async def secure_node(self, *, tls: bool) -> None:
        """Replace the nodes by one that requires a login."""
        if tls and not memcached_has_tls():
            pytest.skip("this memcached is built without TLS")
        node = SecureMemcached(tls=self.authority.folder if tls else None)
        self.exit.callback(node.close)
        node.start()
        access: dict[str, Any] = {"user": "shop", "password": Secret("hush"), "deadline": 3.0, "tls": tls}
        access |= {"tls_ca": str(self.authority.ca_file)} if tls else {}
        settings = changed(self.settings, "ring", nodes={"c1": node.address})
        await self.start_worker(changed(settings, "memcached", **access))

    def broker_certificate(self, **validity: datetime) -> None:
        """Give the broker another certificate, and let the shell connect by TLS."""
        self.authority.issue("server", "127.0.0.1", **validity)
        self.broker.ctl("eval", "ssl:clear_pem_cache().")
        certificate, key = self.authority.issue("client", "check")
        files = {"tls_ca": str(self.authority.ca_file), "tls_certificate": certificate, "tls_key": key}
        self.configure("broker", url=self.broker.tls_url(self.vhost), **files)


Fault = Callable[[Stage], Awaitable[None]]
#: Fault, the exit code of `check`, and a pattern that its first screen matches.
FAULTS: list[tuple[Fault, int, str]] = []


def fault(code: int, says: str) -> Callable[[Fault], Fault]:
    def add(provoke: Fault) -> Fault:
        FAULTS.append((provoke, code, says))
        return provoke

    return add


@fault(69, r"WRONG  binding +product\.updates -> invalidator\.eu: not bound, no event arrives")
async def missing_binding(stage: Stage) -> None:
    stage.api("DELETE", "/bindings/VHOST/e/product.updates/q/invalidator.eu/~")


@fault(69, r"WRONG  exchange +product\.updates: not there")
async def missing_exchange(stage: Stage) -> None:
    stage.api("DELETE", "/exchanges/VHOST/product.updates")


@fault(78, r"WRONG  exchange +product\.updates has type 'direct' instead of 'fanout'")
async def exchange_of_another_type(stage: Stage) -> None:
    await stage.stop_worker()
    stage.api("DELETE", "/exchanges/VHOST/product.updates")
    stage.api("PUT", "/exchanges/VHOST/product.updates", {"type": "direct", "durable": True})


@fault(69, r"WRONG  queue +invalidator\.eu\.dead: not there")
async def missing_dead_letter_queue(stage: Stage) -> None:
    stage.api("DELETE", "/queues/VHOST/invalidator.eu.dead")


@fault(69, r"WRONG  queue +invalidator\.eu\.parked\.c2: not there")
async def missing_parking_queue(stage: Stage) -> None:
    await stage.stop_worker()  # it would make it again
    stage.api("DELETE", "/queues/VHOST/invalidator.eu.parked.c2")


@fault(78, r"WRONG  queue +invalidator\.eu has x-queue-type 'classic' instead of 'quorum'")
async def queue_with_other_arguments(stage: Stage) -> None:
    await stage.stop_worker()
    stage.api("DELETE", "/queues/VHOST/invalidator.eu")
    stage.api("PUT", "/queues/VHOST/invalidator.eu", {"durable": True, "arguments": {"x-queue-type": "classic"}})


@fault(78, r"WRONG  queue +invalidator\.eu\.dead has a delivery limit of 5: reading a message that often deletes it")
async def policy_that_drops_dead_letters_by_the_number_of_readings(stage: Stage) -> None:
    stage.policy(**{"delivery-limit": 5})


@fault(78, r"WRONG  queue +invalidator\.eu\.dead has message-ttl 1000 by policy")
async def policy_that_drops_dead_letters_by_the_clock(stage: Stage) -> None:
    stage.policy(**{"message-ttl": 1000})


@fault(69, r"WRONG  node +c2 \(127.0.0.1:\d+\): cannot connect: .*\n.*fix: start it, or correct its address")
async def dead_node(stage: Stage) -> None:
    stage.nodes[1].kill()


@fault(69, r"WRONG  node +c2 \(127.0.0.1:\d+\): no confirmation for 1 s")
async def hung_node(stage: Stage) -> None:
    stage.nodes[1].pause()


@fault(69, r"WRONG  node +c2 .*Too many open connections.*\n.*fix: find who holds them, or raise its limit")
async def node_full_of_connections(stage: Stage) -> None:
    for _ in range(2 * CONNECTIONS):
        stage.exit.enter_context(socket.create_connection(("127.0.0.1", stage.nodes[1].port)))


@fault(
    69, r"WRONG  debts +1 in invalidator\.eu\.parked\.c2\n.*fix: a worker evicts the keys parked for c2 once it answers"
)
async def node_with_debts(stage: Stage) -> None:
    stage.nodes[1].kill()
    async with publishing(stage.settings.broker.url) as shop:
        await shop.update(1)
        await shop.settled_but(Topology.of(stage.settings), "invalidator.eu.parked.c2")


@fault(69, r"WRONG  node .*user and password with .*authentication failure.*\n.*fix: correct memcached\.user")
async def wrong_password_for_memcached(stage: Stage) -> None:
    await stage.secure_node(tls=False)
    stage.configure("memcached", password=Secret("wrong"))


@fault(69, r"WRONG  node .*unauthenticated.*it requires a login\n.*fix: set memcached\.user")
async def no_password_for_memcached(stage: Stage) -> None:
    await stage.secure_node(tls=False)
    stage.configure("memcached", user=None, password=None)


@fault(69, r"WRONG  node .*TLS: its certificate has expired: renew it on that machine")
async def expired_certificate_of_memcached(stage: Stage) -> None:
    stage.authority.issue("server", "127.0.0.1", not_after=YESTERDAY)
    await stage.secure_node(tls=True)


@fault(69, r"WRONG  node .*\n.*fix: .*for one that speaks TLS \(memcached -Z\), memcached\.tls must be true")
async def no_tls_for_memcached(stage: Stage) -> None:
    stage.authority.issue("server", "127.0.0.1")
    await stage.secure_node(tls=True)
    stage.configure("memcached", tls=False, tls_ca=None)


@fault(77, r'WRONG  broker +127.0.0.1:\d+ refuses user "guest": wrong user or password')
async def wrong_password(stage: Stage) -> None:
    stage.configure("broker", password=Secret("wrong"))


@fault(77, r"WRONG  broker .* refuses user .*vhost nowhere not found")
async def wrong_vhost(stage: Stage) -> None:
    stage.configure("broker", url=stage.broker.url("nowhere"))


@fault(77, r"WRONG  broker .* refuses user .*access to vhost .* refused.* rabbitmqctl set_permissions")
async def no_permission_for_the_vhost(stage: Stage) -> None:
    stage.user()


@fault(77, r"WRONG  permissions +check-\w+ may not: to read invalidator\.eu,.*\n.*fix: rabbitmqctl set_permissions -p")
async def no_permission_to_read(stage: Stage) -> None:
    stage.user(read="^$")


@fault(69, r"WRONG  broker +no broker answers: 127\.0\.0\.1:\d+: .*Connect call failed")
async def no_broker(stage: Stage) -> None:
    stage.configure("broker", url=stage.settings.broker.url.replace(str(stage.broker.port), str(free_port())))


@fault(69, r"WRONG  broker .*TLS: its certificate has expired: renew it on that machine")
async def expired_certificate(stage: Stage) -> None:
    stage.broker_certificate(not_after=YESTERDAY)


@fault(69, r"WRONG  broker .*TLS: its certificate is not valid yet: compare the clocks of both machines")
async def clock_that_is_behind(stage: Stage) -> None:
    stage.broker_certificate(not_before=TOMORROW, not_after=TOMORROW + timedelta(days=9))


@fault(75, r"WRONG  broker +alarm, memory on .*: nothing can be published until it ends")
async def alarm_of_the_broker(stage: Stage) -> None:
    await stage.exit.enter_async_context(alarm(stage.broker, "memory"))


@fault(69, r"\?      topology +arguments, policies and bindings are not verified: the management API .* does not")
async def management_api_out_of_reach(stage: Stage) -> None:
    stage.shell.environ["INVALIDATOR_MANAGEMENT__URL"] = f"http://127.0.0.1:{free_port()}"


@fault(69, r"WRONG  workers +consuming invalidator\.eu: 0; .*\n.*fix: systemctl start invalidator-worker@eu")
async def stopped_worker(stage: Stage) -> None:
    await stage.stop_worker()
    await no_worker_consumes(stage)


@fault(75, r"WRONG  dead letters +50 in invalidator\.eu\.dead; the oldest: 50 not-json \(the body is not JSON")
async def flood_of_poison(stage: Stage) -> None:
    async with publishing(stage.settings.broker.url) as shop:
        await asyncio.gather(*(shop.raw(b"product 17 changed") for _ in range(50)))
        async with asyncio.timeout(60):
            while await shop.ready("invalidator.eu.dead") < 50:
                await asyncio.sleep(0.02)


@fault(78, r"WRONG  ring +worker eu\.\S+\.\d+ evicts on other nodes")
async def another_ring(stage: Stage) -> None:
    stage.configure("ring", nodes={"c1": stage.nodes[0].address})


@fault(78, r"WRONG  rules +worker eu\.\S+\.\d+ has other rules")
async def two_configurations_in_one_cluster(stage: Stage) -> None:
    stage.configure("memcached", prefix="shop:")


@fault(78, r'WRONG  configuration +rule 1 \(on "product_updated"\), template .*column 9: unknown filter "lowr"')
async def rule_that_cannot_work(stage: Stage) -> None:
    broken = [RuleSettings(on="product_updated", evict=["product:{id|lowr}"])]
    stage.shell.configure(Settings(broker=stage.settings.broker, ring=stage.settings.ring, rule=broken, cluster="eu"))


@fault(78, r'invalidator: unknown setting "broker\.prefech" .*: did you mean INVALIDATOR_BROKER__PREFETCH\?')
async def misspelt_setting(stage: Stage) -> None:
    stage.shell.environ["INVALIDATOR_BROKER__PREFECH"] = "3"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.issue("server", "127.0.0.1")
    return made


@pytest.fixture(scope="module")
def stage_broker(authority: Authority) -> Iterator[Broker]:
    """Yield a broker for this file, because some faults affect the whole broker."""
    require("rabbitmq", installed=rabbitmq_is_installed())
    with Broker(tls=authority.folder) as broker:
        yield broker


@pytest.fixture
async def stage(
    stage_broker: Broker, authority: Authority, memcached: MemcachedFactory, tmp_path: Path
) -> AsyncIterator[Stage]:
    vhost = f"test-{uuid.uuid4().hex[:12]}"
    nodes = [memcached("-c", str(CONNECTIONS)) for _ in range(2)]
    settings = settings_for(stage_broker.add_vhost(vhost), nodes)
    async with AsyncExitStack() as exit:
        shell = Shell(settings, stage_broker, tmp_path)
        stage = Stage(stage_broker, quote(vhost, safe=""), nodes, settings, shell, authority, exit)
        await stage.start_worker()
        exit.push_async_callback(stage.stop_worker)
        yield stage


async def no_worker_consumes(stage: Stage) -> None:
    async with asyncio.timeout(60):
        while await consumers(stage.settings.broker.url, "invalidator.eu"):
            await asyncio.sleep(0.02)


def first_screen(text: str) -> str:
    """Return the lines that a terminal shows without scrolling, long ones wrapped."""
    shown, rows = [], 0
    for line in text.splitlines():
        rows += max(1, math.ceil(len(line) / COLUMNS))
        if rows > ROWS:
            break
        shown.append(line)
    return "\n".join(shown)


async def checked(stage: Stage, says: str) -> tuple[str, int]:
    """Return the first screen of `check` and its exit code. The management API may report a change 5 s later."""
    deadline = time.monotonic() + WITHIN
    while True:
        done = await stage.shell.run("check")
        screen = first_screen(done.stdout + done.stderr)
        if re.search(says, screen) or time.monotonic() > deadline:
            return screen, done.returncode


async def test_a_healthy_cluster_has_no_fault(stage: Stage) -> None:
    screen, code = await checked(stage, "OK     ring +the same in 1 running and here")
    assert (0, False) == (code, "WRONG" in screen)


@pytest.mark.parametrize(("provoke", "code", "says"), FAULTS, ids=[provoke.__name__ for provoke, *_ in FAULTS])
async def test_the_first_screen_names_the_cause(provoke: Fault, code: int, says: str, stage: Stage) -> None:
    await provoke(stage)
    screen, exit_code = await checked(stage, says)
    assert re.search(says, screen), screen
    assert code == exit_code, screen


def test_there_are_more_than_twenty() -> None:
    assert len(FAULTS) > 20
