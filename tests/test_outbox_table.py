"""The outbox as a table: what an application appends is what a relay reads. Over SQLite, so without a server."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, exc, insert

from invalidator.app.publish.log_outbox import LogOutbox
from invalidator.app.publish.outbox import CHUNK, Outbox, OutboxEvent
from invalidator.errors import PoisonError
from invalidator.events.event import Event


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    Outbox().create(engine)
    yield engine
    engine.dispose()


def append(engine: Engine, *ids: object, entity: str | None = None) -> None:
    with engine.begin() as connection:
        for number in ids:
            Outbox().append(connection, Event("product_updated", {"id": number}), entity=entity)


def read(engine: Engine, **options: Any) -> list[OutboxEvent]:
    with engine.connect() as connection:
        return Outbox().read(connection, **({"limit": 10_000} | options))


def entities(engine: Engine, **options: Any) -> list[str]:
    return [each.entity for each in read(engine, **options)]


def test_an_event_is_read_as_it_was_appended(engine: Engine) -> None:
    outbox, before = Outbox(app_id="shop"), datetime.now(UTC)
    with engine.begin() as connection:
        outbox.append(connection, Event("product_updated", {"id": 17, "price": 109.99}))
    (appended,) = read(engine)
    message = appended.message
    assert (1, "17", "product_updated", "shop") == (appended.id, appended.entity, message.type, message.app_id)
    assert {"type": "product_updated", "id": 17, "price": 109.99} == json.loads(message.body)
    assert 32 == len(message.id)
    assert before <= message.time <= datetime.now(UTC)


def test_an_events_entity_is_its_id_unless_another_is_given(engine: Engine) -> None:
    append(engine, "a")
    append(engine, "a", entity="the shelf")
    with engine.begin() as connection:
        Outbox().append(connection, Event("shop_closed", {}))
        Outbox().append_many(connection, [Event("product_updated", {"id": "a", "shelf": 3})], entity="shelf")
    assert ["a", "the shelf", "", "3"] == entities(engine)


def test_nothing_of_a_transaction_that_is_rolled_back_stays(engine: Engine) -> None:
    with engine.connect() as connection:
        Outbox().append(connection, Event("product_updated", {"id": 1}))
        connection.rollback()
    assert [] == read(engine)


def test_events_are_read_in_the_order_of_their_ids_behind_one_and_up_to_a_limit(engine: Engine) -> None:
    append(engine, "a", "b", "c", "d")
    assert ["a", "b", "c", "d"] == entities(engine)
    assert ["b", "c"] == entities(engine, after=1, limit=2)
    assert ["b", "d"] == entities(engine, without=["a", "c"])


def test_an_id_is_never_used_again(engine: Engine) -> None:
    append(engine, "a", "b")
    with engine.begin() as connection:
        Outbox().forget(connection, Outbox().read(connection, limit=2))
    append(engine, "c")
    assert [3] == [each.id for each in read(engine)]


def test_any_number_of_events_is_appended_and_deleted(engine: Engine) -> None:
    count = 2 * CHUNK + 1
    with engine.begin() as connection:
        Outbox().append_many(connection, (Event("product_updated", {"id": number}) for number in range(count)))
    events = read(engine)
    assert [str(number) for number in range(count)] == [each.entity for each in events]
    with engine.begin() as connection:
        Outbox().forget(connection, events[1:])
    assert ["0"] == entities(engine)


def test_an_event_that_no_worker_could_read_is_refused_and_of_many_the_position_is_named(engine: Engine) -> None:
    bad = Event("product_updated", {"id": object()})
    with engine.begin() as connection, pytest.raises(PoisonError, match=r"^(?!event)"):
        Outbox().append(connection, bad)
    with engine.begin() as connection, pytest.raises(PoisonError, match=r"^event 1: ") as raised:
        Outbox().append_many(connection, [Event("product_updated", {"id": 1}), bad])
    assert isinstance(raised.value.__cause__, PoisonError)
    assert raised.value.reason == raised.value.__cause__.reason


def test_the_backlog_has_a_number_and_the_time_of_the_oldest(engine: Engine) -> None:
    with engine.connect() as connection:
        assert (0, None) == Outbox().backlog(connection)
    append(engine, 1, 2)
    with engine.connect() as connection:
        count, oldest = Outbox().backlog(connection)
    assert 2 == count
    assert oldest
    assert timedelta(0) <= datetime.now(UTC) - oldest < timedelta(minutes=5)


@pytest.mark.parametrize("column", ["entity", "type", "body", "message_id", "time", "app_id"])
def test_a_row_that_another_program_writes_must_be_complete(engine: Engine, column: str) -> None:
    row = {"entity": "", "type": "x", "body": b"", "message_id": "", "time": datetime.now(UTC), "app_id": ""}
    with pytest.raises(exc.IntegrityError), engine.begin() as connection:
        connection.execute(insert(Outbox().table), row | {column: None})


def test_the_table_is_created_once_and_has_the_name_that_it_was_given(engine: Engine) -> None:
    append(engine, 1)
    Outbox().create(engine)
    assert ["1"] == entities(engine)
    Outbox("elsewhere").create(engine)
    with engine.connect() as connection:
        assert [] == Outbox("elsewhere").read(connection, limit=1)


def test_an_outbox_in_the_log_needs_no_table() -> None:
    assert isinstance(Outbox.in_log("shop"), LogOutbox)
