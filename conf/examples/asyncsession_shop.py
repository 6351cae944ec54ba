"""SQLAlchemy's AsyncSession with the outbox: events are committed with the change, or rolled back with it."""

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession

from invalidator.app import Outbox, track


class Base(orm.DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    price: orm.Mapped[float]


track(AsyncSession, Product, "product_updated", "price", outbox=Outbox(app_id="shop"))


async def update(session: AsyncSession, product: int, price: float) -> None:
    async with session.begin():
        (await session.get_one(Product, product)).price = price


async def reprice(session: AsyncSession, factor: float) -> None:
    """Change many rows in one statement; each row is an event."""
    async with session.begin():
        await session.execute(sa.update(Product).values(price=Product.price * factor))
