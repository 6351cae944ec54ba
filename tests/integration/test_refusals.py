"""Passwords and permissions that change while the worker runs: it reads the secret again, retries, then gives up."""

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from invalidator.errors import RefusedError
from invalidator.settings import Secret, Settings
from invalidator.worker.worker import Worker
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import changed, eventually, settings_for, worker_process
from tests.servers import Broker


@dataclass
class User:
    """A user of this test only, with all permissions in its vhost at first."""

    broker: Broker
    vhost: str
    name: str

    def set_password(self, password: str) -> None:
        self.broker.api("PUT", f"/users/{self.name}", {"password": password, "tags": ""})

    def permit(self, what: str) -> None:
        permissions = dict.fromkeys(("configure", "write", "read"), what)
        self.broker.api("PUT", f"/permissions/{self.vhost}/{self.name}", permissions)

    def clear_permissions(self) -> None:
        self.broker.api("DELETE", f"/permissions/{self.vhost}/{self.name}")

    async def close_connections(self) -> None:
        await asyncio.to_thread(self.broker.ctl, "close_all_connections", "--vhost", self.vhost, "maintenance")

    def settings(self, settings: Settings, password: str) -> Settings:
        url = settings.broker.url.replace("guest:guest@", f"{self.name}@")
        return changed(settings, "broker", url=url, password=Secret(password))


@pytest.fixture
def user(broker: Broker, vhost: str) -> Iterator[User]:
    user = User(broker, vhost.rpartition("/")[2], f"worker-{uuid.uuid4().hex[:8]}")
    user.set_password("first")
    user.permit(".*")
    yield user
    broker.api("DELETE", f"/users/{user.name}")


async def test_a_password_changed_while_running_is_read_again(
    vhost: str, user: User, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    shop = Trial(settings_for(vhost, [node]), [node])
    file = tmp_path / "password"
    file.write_text("first\n")
    file.chmod(0o600)
    settings = changed(user.settings(shop.settings, "first"), "broker", password=None, password_file=str(file))
    with worker_process(settings, tmp_path) as process:
        await says(process, "consuming")
        user.set_password("second")
        await user.close_connections()
        await says(process, "wrong user or password")
        shop.fill(1)
        await shop.publish(1)
        file.write_text("second\n")
        await says(process, "consuming")
        await eventually(shop.is_gone)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0


async def says(process: "subprocess.Popen[str]", word: str) -> None:
    """Wait for a line of a worker's log."""
    assert process.stderr
    async with asyncio.timeout(60):
        while word not in await asyncio.to_thread(process.stderr.readline):
            pass


async def test_a_password_that_stays_wrong_ends_the_worker_with_77_after_several_tries(
    vhost: str, user: User, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    settings = user.settings(settings_for(vhost, [memcached()]), "first")
    with worker_process(settings, tmp_path) as process:
        await says(process, "consuming")
        user.set_password("second")
        await user.close_connections()
        _, log = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 77
    assert log.count("not consuming; will try again") <= 2, "once when it is lost, once when it is refused"
    assert log.splitlines()[-1].startswith("invalidator: 127.0.0.1:")


@pytest.mark.parametrize("how", ["cleared", pytest.param("without reading", marks=pytest.mark.long)])
async def test_a_worker_waits_for_lost_permissions_and_nothing_is_lost(
    how: str, vhost: str, user: User, memcached: MemcachedFactory
) -> None:
    node = memcached()
    shop = Trial(user.settings(settings_for(vhost, [node]), "first"), [node], url=vhost)
    async with shop.working() as worker:
        user.clear_permissions() if how == "cleared" else user.permit("^$")
        await user.close_connections()
        await eventually(lambda: "refuses" in worker.status())
        shop.fill(*range(10))
        await shop.publish(*range(10))
        user.permit(".*")


@pytest.mark.long
async def test_permissions_that_stay_away_end_the_worker_with_a_refusal(
    vhost: str, user: User, memcached: MemcachedFactory
) -> None:
    worker = Worker(user.settings(settings_for(vhost, [memcached()]), "first"))
    running = asyncio.create_task(worker.run(asyncio.Event()))
    await eventually(lambda: worker.status() == "consuming")
    user.permit("^$")
    await user.close_connections()
    with pytest.raises(RefusedError, match="rabbitmqctl set_permissions"):
        await running
