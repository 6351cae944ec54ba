"""`track` on PostgreSQL, with sessions of threads and of asyncio."""

from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from invalidator.app import Outbox, track
from tests import tracking_conformance
from tests.tracking_conformance import DOUBLED, SOME, Base, Product, event, sorted_events, waiting


def url_of(database: str) -> str:
    return database.replace("postgresql://", "postgresql+psycopg://")


class TestPostgres(tracking_conformance.Conformance):
    @pytest.fixture
    def empty(self, database: str) -> Iterator[sa.Engine]:
        engine = sa.create_engine(url_of(database))
        yield engine
        engine.dispose()


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url_of(database))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(Outbox().table.metadata.create_all)
        await connection.execute(sa.insert(Product), [{"id": id, "price": float(id)} for id in (1, 2, 3)])
    yield engine
    await engine.dispose()


async def test_sessions_of_asyncio_are_tracked(engine: AsyncEngine) -> None:
    track(engine, Product, "product_updated", "price", "name")
    async with async_sessionmaker(engine)() as session:
        await session.execute(SOME)
        (await session.get_one(Product, 1)).price = 9.0
        await session.commit()
        connection = await session.connection()
        assert [event(1, 9.0), *DOUBLED] == sorted_events(await connection.run_sync(waiting))


async def test_one_session_of_asyncio_is_tracked_and_no_other(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as tracked, AsyncSession(engine) as other:
        track(tracked, Product, "product_updated", "price", "name")
        for session in (other, tracked):
            await session.execute(SOME)
            await session.commit()
        connection = await tracked.connection()
        assert [event(2, 8.0), event(3, 12.0)] == sorted_events(await connection.run_sync(waiting))
