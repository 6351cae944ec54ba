"""Writers of every kind: psql, an ORM's bulk update, COPY, a trigger, a cascade, a migration, an upsert.

A tenth of the transactions is rolled back, and others roll a savepoint back. Each writer has categories of its own.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

import psycopg
import sqlalchemy
from sqlalchemy import orm

from tests.servers import Postgres, ServerError

CATEGORIES = 40
#: Products of one category.
SIZE = 15
SCHEMA = """
CREATE SEQUENCE changes;
CREATE TABLE categories (id int PRIMARY KEY, name text);
CREATE TABLE products (
    id int PRIMARY KEY, category int REFERENCES categories ON DELETE CASCADE, price int, change bigint
);
ALTER TABLE products REPLICA IDENTITY FULL;
CREATE TABLE history (
    op text, product int, change bigint, writer text DEFAULT current_setting('application_name')
);
CREATE INDEX ON history (change);
CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.change := nextval('changes'); RETURN NEW;
END $$;
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO history VALUES ('d', OLD.id, OLD.change);
    ELSE
        INSERT INTO history VALUES (CASE TG_OP WHEN 'INSERT' THEN 'c' ELSE 'u' END, NEW.id, NEW.change);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION reprice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE products SET price = price + 1 WHERE category = NEW.id; RETURN NULL;
END $$;
CREATE TRIGGER number BEFORE INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION number();
CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON products FOR EACH ROW EXECUTE FUNCTION remember();
CREATE TRIGGER reprice AFTER UPDATE ON categories FOR EACH ROW EXECUTE FUNCTION reprice();
"""


class Base(orm.DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    category: orm.Mapped[int]
    price: orm.Mapped[int]


class Way(Protocol):
    """A transaction on the products of a category, committed if it `is_kept`."""

    def __call__(self, category: int, /, *, is_kept: bool) -> None: ...


class Writer:
    """Writes until it is stopped, also while the server is away."""

    def __init__(self, server: Postgres, database: str, *, number: int, of: int, seed: int, rate: float) -> None:
        self._server = server
        self._database = database
        self._number = number
        #: Seconds from the start of one transaction to that of the next.
        self._every = SIZE * of / rate
        self._categories = range(number, CATEGORIES, of)
        self._chance = random.Random(f"{seed} {number}")
        self._engine = sqlalchemy.create_engine(server.url(database).replace("://", "+psycopg://"))
        self._connection: psycopg.Connection | None = None
        self._thread = threading.Thread(target=self._write)
        self._stopping = threading.Event()
        self.rolled_back = 0
        #: Set once something failed that no fault explains.
        self.failure: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once the last transaction has ended."""
        self._stopping.set()
        self._thread.join()
        self._engine.dispose()
        if self.failure:
            raise self.failure

    def _write(self) -> None:
        kinds = self._kinds()
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due += self._every
            kind = self._chance.choice(kinds)
            try:
                kind(self._chance.choice(self._categories), is_kept=self._chance.random() > 0.1)
            except (psycopg.OperationalError, sqlalchemy.exc.OperationalError, ServerError):
                self._disconnect()  # the server was stopped
                self._stopping.wait(0.2)
            except Exception as error:  # noqa: BLE001  `stop` raises it
                self.failure = error
                break
        self._disconnect()

    def _kinds(self) -> list[Way]:
        return [
            self._by_psql,
            self._by_orm,
            self._by_copy,
            self._by_trigger,
            self._by_cascade,
            self._by_migration,
            self._by_upsert,
            self._by_savepoint,
        ]

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def _in_transaction(self, is_kept: bool, work: Callable[["psycopg.Connection"], object]) -> None:
        if self._connection is None:
            self._connection = psycopg.connect(self._server.url(self._database), autocommit=True)
        with self._connection.transaction(force_rollback=not is_kept):
            work(self._connection)
        self.rolled_back += not is_kept

    def _by_psql(self, category: int, *, is_kept: bool) -> None:
        update = f"UPDATE products SET price = price + 1 WHERE category = {category}"
        end = "COMMIT" if is_kept else "ROLLBACK"
        self._server.sql(f"BEGIN; {update}; {end}", database=self._database)
        self.rolled_back += not is_kept

    def _by_orm(self, category: int, *, is_kept: bool) -> None:
        with orm.Session(self._engine) as session:
            session.execute(
                sqlalchemy.update(Product).where(Product.category == category).values(price=Product.price + 1)
            )
            if is_kept:
                session.commit()
        self.rolled_back += not is_kept

    def _by_copy(self, category: int, *, is_kept: bool) -> None:
        """Fill a category that is empty."""

        def fill(connection: "psycopg.Connection") -> None:
            connection.execute("INSERT INTO categories VALUES (%s, 'c') ON CONFLICT DO NOTHING", [category])
            found = connection.execute("SELECT count(*) FROM products WHERE category = %s", [category]).fetchone()
            if found == (0,):
                with connection.cursor().copy("COPY products (id, category, price) FROM STDIN") as copy:
                    for number in range(SIZE):
                        copy.write_row((category * SIZE + number, category, 1))

        self._in_transaction(is_kept, fill)

    def _by_trigger(self, category: int, *, is_kept: bool) -> None:
        self._in_transaction(
            is_kept, lambda connection: connection.execute("UPDATE categories SET name = 'n' WHERE id = %s", [category])
        )

    def _by_cascade(self, category: int, *, is_kept: bool) -> None:
        self._in_transaction(
            is_kept, lambda connection: connection.execute("DELETE FROM categories WHERE id = %s", [category])
        )
        self._by_copy(category, is_kept=True)

    def _by_migration(self, category: int, *, is_kept: bool) -> None:
        """Add a column, fill it and drop it again, in one transaction, as a tool for migrations does it."""
        column = f"migrated_{self._number}"

        def migrate(connection: "psycopg.Connection") -> None:
            connection.execute(f"ALTER TABLE products ADD COLUMN {column} int")
            connection.execute(f"UPDATE products SET {column} = price WHERE category = %s", [category])
            connection.execute(f"ALTER TABLE products DROP COLUMN {column}")

        if self._chance.random() < 0.1:  # it locks out all others
            self._in_transaction(is_kept, migrate)

    def _by_upsert(self, category: int, *, is_kept: bool) -> None:
        statement = (
            "INSERT INTO products (id, category, price) SELECT id, category, 1 FROM products WHERE category = %s "
            "ON CONFLICT (id) DO UPDATE SET price = products.price + 1"
        )
        self._in_transaction(is_kept, lambda connection: connection.execute(statement, [category]))

    def _by_savepoint(self, category: int, *, is_kept: bool) -> None:
        """Update a half twice and the rest never: the second time and the rest are rolled back to a savepoint."""

        def write(connection: "psycopg.Connection") -> None:
            half = "UPDATE products SET price = price + 1 WHERE category = %s AND id %% 2 = 0"
            connection.execute(half, [category])
            with connection.transaction(force_rollback=True):
                connection.execute(half, [category])
                connection.execute("DELETE FROM products WHERE category = %s AND id %% 2 = 1", [category])

        self._in_transaction(is_kept, write)
