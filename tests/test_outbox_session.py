"""A relay's session with the database, over SQLite: what it claims, sweeps and deletes, and how it names failures."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from invalidator.app.publish.outbox import SHARDS, Outbox
from invalidator.errors import ConfigurationError, UnreachableError
from invalidator.events.event import Event
from invalidator.relay.claims import _share
from invalidator.relay.database import OutboxSession, engine_of
from invalidator.relay.lower_bound import LowerBound
from invalidator.settings import OutboxSettings, Secret


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db", pool_size=2, max_overflow=0, pool_timeout=0.1)
    Outbox().create(engine)
    yield engine
    engine.dispose()


def append(engine: Engine, *entities: str, table: str = "invalidator_outbox") -> None:
    with engine.begin() as connection:
        for entity in entities:
            Outbox(table).append(connection, Event("product_updated", {"id": entity}))


def session(engine: Engine, *, table: str = "invalidator_outbox", batch_events: int = 2) -> OutboxSession:
    """Return an open session that has claimed what is free."""
    made = OutboxSession(engine, OutboxSettings(table=table, batch_events=batch_events))
    made.open()
    assert 0 == made.balance()
    return made


def swept(session: OutboxSession) -> list[list[str]]:
    return [[event.entity for event in events] for events in session.sweep()]


@pytest.mark.parametrize(
    ("entities", "batches"),
    [("", []), ("a", [["a"]]), ("abcd", [["a", "b"], ["c", "d"]]), ("abcde", [["a", "b"], ["c", "d"], ["e"]])],
)
def test_a_sweep_reads_the_table_from_its_beginning_in_batches(
    engine: Engine, entities: str, batches: list[list[str]]
) -> None:
    append(engine, *entities)
    opened = session(engine)
    assert batches == swept(opened) == swept(opened)
    opened.close()


def test_a_sweep_begins_behind_what_was_published_unless_it_left_something_out_or_has_new_shards(
    engine: Engine,
) -> None:
    append(engine, "a", "b", "c")
    opened = session(engine)
    opened._bound = LowerBound(frozenset, clock=itertools.count().__next__)  # nobody writes
    for _ in range(3):
        assert [["b", "c"]] == [[event.entity for event in events] for events in opened.sweep(without=["a"])]
        opened.swept(3, is_whole=True)
    for _ in range(2):
        assert [["a", "b"], ["c"]] == swept(opened)
        opened.swept(3, is_whole=True)
    assert [] == swept(opened)
    opened._claims.shards = frozenset()  # type: ignore[union-attr]
    opened.balance()
    assert [["a", "b"], ["c"]] == swept(opened)
    opened.close()


def test_only_published_events_are_deleted(engine: Engine) -> None:
    append(engine, "a", "b", "c")
    opened = session(engine)
    sweep = opened.sweep()
    opened.delete(next(sweep))
    sweep.close()  # type: ignore[attr-defined]
    assert [["c"]] == swept(opened)
    opened.close()


def test_the_table_has_the_name_of_the_settings(engine: Engine) -> None:
    Outbox("events").create(engine)
    append(engine, "a", table="events")
    opened = session(engine, table="events")
    assert [["a"]] == swept(opened)
    opened.close()


def test_a_missing_table_is_named_with_the_command_that_creates_it(engine: Engine) -> None:
    missing = OutboxSession(engine, OutboxSettings(table="elsewhere"))
    with pytest.raises(ConfigurationError, match='no table "elsewhere": invalidator relay --create-table'):
        missing.open()
    missing.close()


def test_of_two_relays_on_sqlite_one_has_everything_until_it_ends(engine: Engine) -> None:
    append(engine, "a")
    first, second = session(engine), session(engine)
    assert ([["a"]], []) == (swept(first), swept(second))
    assert (0, 0) == (first.balance(), second.balance())
    first.release(1)
    assert [["a"]] == swept(first), "it releases nothing: there is no surplus"
    first.close()
    assert [] == swept(second)
    second.balance()
    assert [["a"]] == swept(second)
    second.close()


def test_a_session_that_ends_gives_its_connection_back(engine: Engine) -> None:
    ended = []
    for _ in range(3):
        ended.append(session(engine))
        ended[-1].close()
    OutboxSession(engine, OutboxSettings()).close()


def test_a_database_that_fails_is_unreachable_and_its_words_are_kept(engine: Engine) -> None:
    append(engine, "a")
    opened = session(engine)
    (events,) = opened.sweep()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE invalidator_outbox"))
    with pytest.raises(UnreachableError, match=r"^the outbox's database: no such table: invalidator_outbox$"):
        list(opened.sweep())
    with pytest.raises(UnreachableError):
        opened.delete(events)
    opened.close()


def test_a_folder_that_the_relay_may_not_write_to_is_named(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    Outbox().create(engine)
    (tmp_path / "shop.db.relay").mkdir()  # for root may write anywhere
    opened = OutboxSession(engine, OutboxSettings())
    opened.open()
    with pytest.raises(ConfigurationError, match=rf"cannot write {tmp_path}/shop.db.relay: Is a directory"):
        opened.balance()
    opened.close()
    engine.dispose()


@pytest.mark.parametrize("relays", [1, 2, 3, SHARDS, SHARDS + 1])
def test_the_fair_shares_of_all_relays_cover_every_shard_and_hardly_more(relays: int) -> None:
    assert SHARDS <= relays * _share(relays) < SHARDS + relays


# The database's URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, '"outbox.url" is missing'),
        ("postgres at home", "should read postgresql://"),
        ("mongodb://shop:secret@db/shop", "should read postgresql://"),
        ("postgresql+pg8000://shop:secret@db/shop", r"pip install 'invalidator\[outbox\]'"),
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(url: str | None, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        engine_of(OutboxSettings(url=Secret(url) if url else None))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "driver", "options"),
    [
        ("postgresql://shop@db/shop", "psycopg", {"connect_timeout": "10"}),
        ("postgresql+psycopg://shop@db/shop?connect_timeout=3", "psycopg", {"connect_timeout": "3"}),
        ("mariadb://shop@db/shop?ssl_ca=x", "pymysql", {"connect_timeout": "10", "read_timeout": "30", "ssl_ca": "x"}),
        ("sqlite:////srv/shop.db", "pysqlite", {}),
    ],
)
def test_a_database_has_its_driver_and_deadlines_unless_the_url_names_others(
    url: str, driver: str, options: dict[str, str]
) -> None:
    engine = engine_of(OutboxSettings(url=Secret(url)))
    assert (driver, options) == (engine.dialect.driver, dict(engine.url.query))
