"""The statements of an asyncio publisher, over a stand-in for the broker."""

import asyncio
from typing import Any, cast

import pytest
from pamqp.commands import Basic

from invalidator.broker.connection import Connection
from invalidator.broker.publish import async_statements
from invalidator.broker.publish.async_statements import AsyncStatements
from invalidator.broker.publish.numbers import Numbers


class Channel:
    """A channel that stores statements, or closes under the first one."""

    def __init__(self, *, fails: bool) -> None:
        self.closing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._fails = fails
        self.stored: list[bytes] = []

    @property
    def is_closed(self) -> bool:
        return self.closing.done()

    async def exchange_declare(self, *_: object, **__: object) -> None: ...

    async def basic_publish(self, body: bytes, **_: object) -> None:
        if self._fails:
            self.closing.set_result(None)
            raise TimeoutError
        self.stored.append(body)


async def test_a_statement_that_closes_its_channel_is_made_again_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = [Channel(fails=True), Channel(fails=False)]
    left = list(channels)

    async def raw_channel(*_: object, **__: object) -> Channel:
        return left.pop(0)

    monkeypatch.setattr(async_statements, "raw_channel", raw_channel)
    monkeypatch.setattr(async_statements, "STATEMENT_SECONDS", 0.01)
    numbers = Numbers("shop")
    statements = AsyncStatements(numbers, "invalidator.log")
    await statements.open_on(cast(Connection, object()))
    with statements.numbered(Basic.Properties()):
        pass
    async with asyncio.timeout(20):
        while not numbers.are_stated:
            await asyncio.sleep(0)
    assert [0, 1] == [len(channel.stored) for channel in channels]
    await statements.close()
