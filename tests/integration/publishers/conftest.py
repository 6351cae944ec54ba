"""Both kinds of publishers, and a cluster's queue without a worker."""

import gc
import logging
from collections.abc import AsyncIterator

import pytest

from tests.integration.publishers.kinds import Loop, Make, Threads, declare
from tests.integration.shop import Publishing, publishing


@pytest.fixture(params=[Threads, Loop])
async def made(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Make]:
    """Return a factory, `made(url, timeout=…)`, of one kind of publisher and then the other.

    Their libraries may log nothing, whatever happens: an error says it.
    """
    caplog.set_level(logging.INFO)
    kept = []

    def make(url: str, *, timeout: float = 20.0) -> Threads | Loop:
        kept.append(request.param(url, timeout=timeout))
        return kept[-1]  # type: ignore[no-any-return]

    yield make
    for publisher in kept:
        await publisher.close()
    assert [] == [record.getMessage() for record in caplog.get_records("call") if not record.name.startswith("invalid")]
    gc.collect()  # an unclosed socket is a warning, and a warning is an error


@pytest.fixture
async def shop(vhost: str) -> AsyncIterator[Publishing]:
    """Make a vhost with a cluster's queue and no worker."""
    await declare(vhost)
    async with publishing(vhost) as shop:
        yield shop
