"""Reports to systemd: started, alive, and silent while a service is stuck."""

import asyncio
import socket
from pathlib import Path

import pytest

from invalidator.runtime import systemd as module
from invalidator.runtime.health import Health
from invalidator.runtime.systemd import Systemd, reported
from tests.logs import capture_logs

STARTING = Health(is_live=True, is_ready=False, status="starting")
STUCK = Health(is_live=False, is_ready=True, status="consuming; a batch is stuck")
WELL = Health(is_live=True, is_ready=True, status="consuming")


class Listening(Systemd):
    """systemd's end, as a list."""

    def __init__(self) -> None:
        super().__init__("")
        self.received: list[dict[str, str | int]] = []

    def notify(self, **fields: str | int) -> bool:
        self.received.append(fields)
        return True


class Service:
    """A service whose health the test sets, and which counts how often it was asked."""

    def __init__(self) -> None:
        self.tried = asyncio.Event()
        self.now = STARTING
        self.asked = 0

    def health(self) -> Health:
        self.asked += 1
        return self.now

    async def asked_again(self) -> None:
        before = self.asked
        async with asyncio.timeout(10):
            while self.asked < before + 2:
                await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.0)


async def test_a_service_is_reported_as_started_once_and_only_when_it_has_tried() -> None:
    service, systemd = Service(), Listening()
    async with reported(service, systemd):
        await service.asked_again()
        assert not [fields for fields in systemd.received if "READY" in fields]
        service.tried.set()
        await service.asked_again()
        await service.asked_again()
    assert [{"READY": 1, "STATUS": "starting"}] == [fields for fields in systemd.received if "READY" in fields]


async def test_the_watchdog_is_fed_with_the_status_and_not_while_the_service_is_stuck() -> None:
    service, systemd = Service(), Listening()
    service.now = STUCK
    with capture_logs() as logs:
        async with reported(service, systemd):
            await service.asked_again()
            await service.asked_again()
            assert systemd.received == []
            service.now = WELL
            await service.asked_again()
            assert systemd.received[0] == {"WATCHDOG": 1, "STATUS": "consuming"}
    assert [STUCK.status] == [line["status"] for line in logs], "logged once"


async def test_nothing_is_reported_after_the_service_has_ended() -> None:
    service, systemd = Service(), Listening()
    async with reported(service, systemd):
        await service.asked_again()
    count = len(systemd.received)
    for _ in range(5):
        await asyncio.sleep(0)
    assert count == len(systemd.received)


async def test_a_systemd_that_reads_nothing_holds_nothing_up_and_hears_later_that_the_service_has_started(
    tmp_path: Path,
) -> None:
    service = Service()
    service.tried.set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, capture_logs() as logs:
        manager.bind(path := str(tmp_path / "notify"))
        systemd = Systemd(path)
        while systemd.notify(STATUS="before"):
            pass
        async with reported(service, systemd):
            await service.asked_again()
            while manager.recv(4096) != b"READY=1\nSTATUS=starting":
                await asyncio.sleep(0)
    assert {"cannot notify systemd"} == {line["event"] for line in logs}
