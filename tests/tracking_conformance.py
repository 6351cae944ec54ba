"""The behaviour of `track`, on every database: each way in which a session can write, and the events it leaves."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql, sqlite

from invalidator.app import ConfigurationError, Outbox, track


class Base(orm.DeclarativeBase):
    pass


class Category(Base):
    __tablename__ = "category"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    products: orm.Mapped[list["Product"]] = orm.relationship(cascade="all, delete-orphan")


class Product(Base):
    __tablename__ = "product"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    price: orm.Mapped[float]
    name: orm.Mapped[str] = orm.mapped_column(server_default="chair")
    category_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey(Category.id))


class Stock(Base):
    __tablename__ = "stock"

    shop: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    product: orm.Mapped[int] = orm.mapped_column("product_id", primary_key=True)
    pieces: orm.Mapped[int]


def waiting(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return the events in the outbox."""
    events = Outbox().read(connection, limit=1000)
    return [json.loads(event.message.body) for event in events]


def event(id: int, price: float, name: str = "chair") -> dict[str, Any]:
    return {"type": "product_updated", "id": id, "price": price, "name": name}


TABLE = Product.__table__
assert isinstance(TABLE, sa.Table)
SOME = sa.update(Product).where(Product.id >= 2).values(price=Product.price * 2)

Session = orm.Session


def add(session: Session) -> None:
    session.add_all([Product(id=4, price=4.0), Product(id=5, price=5.0, name="table")])


def change(session: Session) -> None:
    session.get_one(Product, 1).price = 9.0


def change_to_an_expression(session: Session) -> None:
    session.get_one(Product, 1).price = Product.price + 1


def delete(session: Session) -> None:
    session.delete(session.get_one(Product, 1))


def delete_expired(session: Session) -> None:
    product = session.get_one(Product, 1)
    session.delete(product)
    session.expire(product)


def delete_by_cascade(session: Session) -> None:
    session.delete(session.get_one(Category, 1))


def move_by_the_other_side(session: Session) -> None:
    session.add(Category(id=2, products=[session.get_one(Product, 1)]))


def merge(session: Session) -> None:
    session.merge(Product(id=1, price=9.0))


def legacy_update(session: Session) -> None:
    assert 2 == session.query(Product).filter(Product.id >= 2).update({"price": Product.price * 2})


def legacy_delete(session: Session) -> None:
    assert 2 == session.query(Product).filter(Product.id >= 2).delete()


def upsert(session: Session) -> None:
    insert = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[session.get_bind().dialect.name]
    new: Any = insert(Product).values([{"id": 3, "price": 9.0}, {"id": 4, "price": 4.0}])
    session.execute(new.on_conflict_do_update(index_elements=["id"], set_={"price": new.excluded.price}))


def statement(made: Any, *parameters: Any, rows: int | None = None, **options: Any) -> Callable[[Session], None]:
    """Execute a statement, and check its `rowcount`."""

    def execute(session: Session) -> None:
        result: Any = session.execute(made, *parameters, **options)
        assert rows is None or rows == result.rowcount

    return execute


def returned(made: Any, expected: list[Any]) -> Callable[[Session], None]:
    """Execute a statement with RETURNING, and check the rows."""

    def execute(session: Session) -> None:
        assert expected == [tuple(row) for row in session.execute(made)]

    return execute


def returned_objects(session: Session) -> None:
    found = session.scalars(SOME.returning(Product)).all()
    assert [(2, 4.0), (3, 6.0)] == [(product.id, product.price) for product in found]


def synchronized(how: str) -> Callable[[Session], None]:
    def execute(session: Session) -> None:
        product = session.get_one(Product, 2)
        session.execute(SOME, execution_options={"synchronize_session": how})
        assert 4.0 == product.price

    return execute


DOUBLED = [event(2, 4.0), event(3, 6.0)]
NEW = [{"id": 4, "price": 4.0}, {"id": 5, "price": 5.0}]
ADDED = [event(4, 4.0), event(5, 5.0)]
BY_KEY = [{"id": 2, "price": 4.0}, {"id": 3, "price": 6.0}]
MANY = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("which")).values(price=sa.bindparam("new"))
#: A way to write -> the write, and the events of it.
WAYS: dict[str, tuple[Callable[[Session], None], list[dict[str, Any]]]] = {
    "add": (add, [event(4, 4.0), event(5, 5.0, "table")]),
    "change": (change, [event(1, 9.0)]),
    "change to an expression": (change_to_an_expression, [event(1, 2.0)]),
    "delete": (delete, [event(1, 1.0)]),
    "delete an expired object": (delete_expired, [event(1, 1.0)]),
    "the ORM's cascade": (delete_by_cascade, [event(1, 1.0), event(2, 2.0)]),
    "move by the other side": (move_by_the_other_side, [event(1, 1.0)]),
    "merge": (merge, [event(1, 9.0)]),
    "update()": (statement(SOME, rows=2), DOUBLED),
    "update(), a literal": (statement(sa.update(Product).values(price=7), rows=3), [event(n, 7.0) for n in (1, 2, 3)]),
    "update(), fetch": (synchronized("fetch"), DOUBLED),
    "update(), evaluate": (synchronized("evaluate"), DOUBLED),
    "update(), nothing": (statement(sa.update(Product).where(Product.id > 9).values(price=1), rows=0), []),
    "update(), returning": (returned(SOME.returning(Product.name, Product.id), [("chair", 2), ("chair", 3)]), DOUBLED),
    "update(), returning objects": (returned_objects, DOUBLED),
    "update() by key": (statement(sa.update(Product), BY_KEY), DOUBLED),
    "update() of the table": (statement(sa.update(TABLE).where(TABLE.c.id >= 2).values(price=7), rows=2),
                              [event(2, 7.0), event(3, 7.0)]),
    "update() of the table, many": (statement(MANY, [{"which": 2, "new": 4.0}, {"which": 3, "new": 6.0}], rows=2),
                                    DOUBLED),
    "Query.update()": (legacy_update, DOUBLED),
    "delete()": (statement(sa.delete(Product).where(Product.id >= 2), rows=2), [event(2, 2.0), event(3, 3.0)]),
    "delete(), returning": (returned(sa.delete(Product).where(Product.id == 2).returning(Product.id), [(2,)]),
                            [event(2, 2.0)]),
    "Query.delete()": (legacy_delete, [event(2, 2.0), event(3, 3.0)]),
    "insert()": (statement(sa.insert(Product).values(NEW[0]), rows=1), ADDED[:1]),
    "insert(), many": (statement(sa.insert(Product), NEW, rows=2), ADDED),
    "insert(), values": (statement(sa.insert(Product).values(NEW), rows=2), ADDED),
    "insert(), returning": (returned(sa.insert(Product).values(NEW).returning(Product.id), [(4,), (5,)]), ADDED),
    "insert(), from select": (
        statement(sa.insert(Product).from_select(["id", "price"], sa.select(Product.id + 9, Product.price)), rows=3),
        [event(10, 1.0), event(11, 2.0), event(12, 3.0)],
    ),
    "insert() into the table": (statement(sa.insert(TABLE), NEW, rows=2), ADDED),
    "upsert": (upsert, [event(3, 9.0), event(4, 4.0)]),
}  # fmt: skip


def sorted_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(events, key=lambda one: int(one["id"]))


class Conformance:
    """Inherit, and provide a fixture `empty`: an engine on a database without tables."""

    @pytest.fixture
    def engine(self, empty: sa.Engine) -> Iterator[sa.Engine]:
        """Make the shop: a category with two products, and one product without."""
        Base.metadata.create_all(empty)
        Outbox().create(empty)
        with orm.Session(empty) as session, session.begin():
            session.add(Category(id=1, products=[Product(id=1, price=1.0), Product(id=2, price=2.0)]))
            session.add(Product(id=3, price=3.0))
        yield empty
        empty.dispose()

    @pytest.fixture
    def session(self, engine: sa.Engine) -> Iterator[orm.Session]:
        track(engine, Product, "product_updated", "price", "name")
        with orm.Session(engine) as session:
            yield session

    @pytest.mark.parametrize("way", WAYS)
    def test_every_way_in_which_a_session_writes_leaves_an_event_of_each_row(self, way: str, session: Session) -> None:
        write, expected = WAYS[way]
        write(session)
        session.commit()
        assert expected == sorted_events(waiting(session.connection()))

    def test_events_are_rolled_back_with_the_transaction_or_the_savepoint(self, session: Session) -> None:
        change(session)
        session.flush()
        session.rollback()
        with session.begin_nested() as savepoint:
            session.execute(SOME)
            savepoint.rollback()
        delete(session)
        session.commit()
        assert [event(1, 1.0)] == waiting(session.connection())

    def test_a_flush_that_fails_leaves_no_event_for_the_next(self, session: Session) -> None:
        change(session)
        session.add(Product(id=2, price=9.0))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        session.rollback()
        session.add(Product(id=4, price=4.0))
        session.commit()
        assert [event(4, 4.0)] == waiting(session.connection())

    def test_reads_and_unchanged_objects_leave_nothing(self, session: Session) -> None:
        product = session.get_one(Product, 1)
        product.price = product.price
        session.scalars(sa.select(Product)).all()
        session.add(Category(id=2))
        session.commit()
        assert [] == waiting(session.connection())

    def test_sessions_of_another_engine_are_not_tracked(self, session: Session, engine: sa.Engine) -> None:
        other = sa.create_engine(engine.url)
        with orm.Session(other) as untracked:
            change(untracked)
            untracked.execute(SOME)
            untracked.commit()
            assert [] == waiting(untracked.connection())
        other.dispose()

    def test_one_sessionmaker_is_tracked_and_no_other(self, engine: sa.Engine) -> None:
        tracked, other = orm.sessionmaker(engine), orm.sessionmaker(engine)
        track(tracked, Product, "product_updated", "price", "name")
        for maker in (other, tracked):
            with maker() as session, session.begin():
                session.execute(SOME)
        with engine.connect() as connection:
            assert [event(2, 8.0), event(3, 12.0)] == sorted_events(waiting(connection))

    def test_a_model_is_tracked_for_two_types_of_event(self, session: Session, engine: sa.Engine) -> None:
        track(engine, Product, "listing_changed", "category_id")
        returned(SOME.returning(Product.id), [(2,), (3,)])(session)
        change(session)
        session.commit()
        listing = [{"type": "listing_changed", "id": id, "category_id": of} for id, of in ((1, 1), (2, 1), (3, None))]
        found = waiting(session.connection())
        assert [event(1, 9.0), *DOUBLED] == sorted_events([one for one in found if "price" in one])
        assert listing == sorted_events([one for one in found if "price" not in one])

    def test_a_key_of_two_columns_and_an_attribute_with_another_name_than_its_column(self, engine: sa.Engine) -> None:
        track(engine, Stock, "stock_changed")
        with orm.Session(engine) as session, session.begin():
            session.add_all([Stock(shop="eu", product=1, pieces=1), Stock(shop="us", product=1, pieces=1)])
            session.flush()
            session.execute(sa.update(Stock), [{"shop": "us", "product": 1, "pieces": 0}])
        with engine.connect() as connection:
            found = Outbox().read(connection, limit=10)
        assert ["eu", "us", "us"] == [one.entity for one in found]
        assert {"type": "stock_changed", "shop": "us", "product": 1} == json.loads(found[-1].message.body)

    def test_a_database_without_returning_locks_and_reads_the_rows(self, session: Session, engine: sa.Engine) -> None:
        engine.dialect.update_returning = engine.dialect.delete_returning = engine.dialect.insert_returning = False
        for write in (SOME, sa.delete(Product).where(Product.id == 3)):
            session.execute(write)
        with pytest.raises(ConfigurationError, match="add objects to the session"):
            session.execute(sa.insert(Product), NEW)
        assert [event(2, 4.0), event(3, 6.0), event(3, 6.0)] == sorted_events(waiting(session.connection()))

    def test_an_attribute_that_is_no_column_of_the_table_is_refused(self, engine: sa.Engine) -> None:
        with pytest.raises(ConfigurationError, match='Product has no column "prize" in product'):
            track(engine, Product, "product_updated", "prize")

    def test_thousands_of_rows_are_appended_in_few_statements(self, session: Session, engine: sa.Engine) -> None:
        session.execute(sa.insert(Product), [{"id": id, "price": 1.0} for id in range(10, 2510)])
        statements: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
        session.execute(sa.update(Product).values(price=2.0))
        assert 10 > len(statements)
        assert 2503 == Outbox().backlog(session.connection())[0] - 2500
