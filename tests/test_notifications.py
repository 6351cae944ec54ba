"""PostgreSQL's notifications, without a server: how the relay connects, and how it tries again."""

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from invalidator.relay import notifications


@pytest.mark.parametrize("pause", [0.0, 3600.0])
async def test_a_server_that_cannot_be_reached_is_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    tries: list[str] = []

    async def connect(url: str, **_: Any) -> Any:
        tries.append(url)
        raise [psycopg.OperationalError, OSError][len(tries) % 2]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    monkeypatch.setattr(notifications, "pause", lambda: pause)
    wake = asyncio.Event()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await notifications.listen(make_url("postgresql+psycopg://shop:secret@db/shop"), "events", wake)
    assert {"postgresql://shop:secret@db/shop"} == set(tries)
    assert (1 == len(tries), False) == (pause > 0, wake.is_set())
