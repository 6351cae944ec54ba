"""The behaviour of every outbox: a table that a relay drains, and the database's log that a follower reads."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from invalidator.app import ConfigurationError, Event, Outbox, PoisonError
from invalidator.app.publish.log_outbox import LogOutbox
from invalidator.operate.topology import declared
from tests.integration.follow.followed_shop import Shop, following
from tests.integration.shop import Publishing, publishing
from tests.integration.test_outbox import QUEUE, relay_settings, relaying, with_driver
from tests.servers import Postgres


class Stage(NamedTuple):
    """An outbox, the database it is in, and the service that publishes its events."""

    outbox: Outbox | LogOutbox
    engine: sa.Engine
    serving: Callable[[], AbstractAsyncContextManager[Any]]
    bus: Publishing

    async def published(self, count: int) -> list[Any]:
        """Serve until `count` events and one last one are published, and return what came before it."""
        with self.engine.begin() as connection:
            self.outbox.append(connection, Event("last", {"id": "last"}))
        bodies: list[Any] = []
        async with self.serving():
            while len(bodies) <= count:
                bodies += [json.loads(message.body) for message in await self.bus.take(QUEUE)]
        return [body["id"] for body in bodies if body["id"] != "last"]


@pytest.fixture(params=["table", "log"])
async def stage(request: pytest.FixtureRequest, postgres: Postgres, vhost: str) -> AsyncIterator[Stage]:
    shop = Shop(postgres, vhost.rpartition("/")[2], vhost)
    await shop.create()
    url = with_driver(postgres.url(shop.name))
    engine = sa.create_engine(url)
    await declared(shop.settings)
    async with publishing(vhost) as bus:
        if request.param == "table":
            outbox = Outbox()
            outbox.create(engine)
            yield Stage(outbox, engine, lambda: relaying(relay_settings(vhost, url)), bus)
        else:
            yield Stage(Outbox.in_log(), engine, lambda: following(shop.settings), bus)
    engine.dispose()
    shop.close()


async def test_a_committed_event_is_published_and_one_that_was_rolled_back_is_not(stage: Stage) -> None:
    def append(connection: sa.Connection, id: int) -> None:
        stage.outbox.append(connection, Event("product_updated", {"id": id, "price": 109.99}))

    with stage.engine.connect() as connection:
        append(connection, 1)
        connection.rollback()
        append(connection, 2)
        with connection.begin_nested() as savepoint:
            append(connection, 3)
            savepoint.rollback()
        connection.commit()
    assert [2] == await stage.published(1)


async def test_many_events_keep_their_order(stage: Stage) -> None:
    with stage.engine.begin() as connection:
        stage.outbox.append_many(connection, (Event("product_updated", {"id": id}) for id in range(2500)))
        stage.outbox.append_many(connection, [])
    assert list(range(2500)) == await stage.published(2500)


async def test_an_event_that_no_worker_could_read_is_refused_with_its_position(stage: Stage) -> None:
    events = [Event("product_updated", {"id": 1}), Event("", {"id": 2})]
    with stage.engine.connect() as connection:
        with pytest.raises(PoisonError, match="event 1: "):
            stage.outbox.append_many(connection, events)
        with pytest.raises(PoisonError):
            stage.outbox.append(connection, events[1])
        connection.rollback()
    assert [] == await stage.published(0)


async def test_texts_of_every_script_arrive_as_they_are(stage: Stage) -> None:
    ids = ["\u00e9", "\u6f22", "\U0001f600", 'quote " and \\ backslash', "%s and :colon"]
    with stage.engine.begin() as connection:
        for id in ids:
            stage.outbox.append(connection, Event("product_updated", {"id": id}))
    assert ids == await stage.published(len(ids))


def test_another_database_has_no_such_log() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(ConfigurationError, match="on sqlite"):
        Outbox.in_log().append(connection, Event("product_updated", {"id": 1}))
    engine.dispose()
