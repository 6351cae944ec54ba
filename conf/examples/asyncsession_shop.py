"""SQLAlchemy's AsyncSession with the outbox: the event is committed with the change, or rolled back with it."""

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession

from invalidator.app import Event, Outbox

outbox = Outbox(app_id="shop")


class Base(orm.DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    price: orm.Mapped[float]


def append(session: orm.Session, event: Event) -> None:
    outbox.append(session.connection(), event)


async def update(session: AsyncSession, product: int, price: float) -> None:
    async with session.begin():
        (await session.get_one(Product, product)).price = price
        await session.flush()  # the change first, so that events are in the order of the commits
        await session.run_sync(append, Event("product_updated", {"id": product, "price": price}))


async def reprice(session: AsyncSession, factor: float) -> None:
    """Change many rows in one statement, which names the rows to evict."""
    async with session.begin():
        change = sa.update(Product).values(price=Product.price * factor).returning(Product.id)
        for product in (await session.scalars(change)).all():
            await session.run_sync(append, Event("product_updated", {"id": product}))
