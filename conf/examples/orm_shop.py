"""SQLAlchemy's ORM with the outbox: every product that a session writes is evicted, once its transaction is committed.

`track` sees flushes, and `update()`, `delete()` and `insert()`. It appends events after the change, which keeps them in
the order of the commits. The handbook lists the statements that it cannot see.
"""

import sqlalchemy as sa
from sqlalchemy import orm

from invalidator.app import Outbox, track


class Base(orm.DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    price: orm.Mapped[float]


track(orm.Session, Product, "product_updated", "price", outbox=Outbox(app_id="shop"))


def update(engine: sa.Engine, product: int, price: float) -> None:
    with orm.Session(engine) as session, session.begin():
        session.get_one(Product, product).price = price


def reprice(engine: sa.Engine, factor: float) -> None:
    """Change many rows in one statement; each row is an event."""
    with orm.Session(engine) as session, session.begin():
        session.execute(sa.update(Product).values(price=Product.price * factor))
