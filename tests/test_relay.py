"""A relay and its failures, without servers: a database in memory, and a publisher that refuses some events."""

import asyncio
import json
import time
from typing import Any

import pytest

from invalidator.app.publish.async_publisher import AsyncPublisher
from invalidator.app.publish.message import Message, message
from invalidator.app.publish.outbox import OutboxEvent
from invalidator.errors import ConfigurationError, InvalidatorError, UnconfirmedError, UnreachableError
from invalidator.relay import Relay, engine_of
from invalidator.settings import OutboxSettings, Secret, Settings


class Picky(AsyncPublisher):
    """A publisher that takes all events but some."""

    def __init__(self, *refused: int) -> None:
        super().__init__("amqp://guest@127.0.0.1:1/")
        self.taken: list[Any] = []
        self._refused = refused

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        number = json.loads(message.body)["number"]
        if number in self._refused:
            raise UnconfirmedError("not this one")
        self.taken.append(number)


def waiting(number: int, entity: str) -> OutboxEvent:
    return OutboxEvent(number, entity, message("product_updated", {"number": number}, app_id=""))


def relay_to(publisher: Picky) -> Relay:
    relay = Relay(Settings(outbox=OutboxSettings(url=Secret("sqlite://"))))
    relay._publisher = publisher
    return relay


async def published(events: list[OutboxEvent], publisher: Picky) -> tuple[list[int], InvalidatorError | None]:
    done, failure = await relay_to(publisher)._publish(events)
    return sorted(event.id for event in done), failure


async def test_after_an_event_that_failed_none_of_its_entity_is_published_and_the_others_are() -> None:
    events = [waiting(1, "a"), waiting(2, "b"), waiting(3, "a"), waiting(4, "b"), waiting(5, "a")]
    publisher = Picky(3)
    done, failure = await published(events, publisher)
    assert done == [1, 2, 4]
    assert sorted(publisher.taken) == [1, 2, 4]
    assert isinstance(failure, UnconfirmedError)


async def test_events_of_one_entity_are_published_in_turn() -> None:
    publisher = Picky()
    await published([waiting(number, "a") for number in range(20)], publisher)
    assert publisher.taken == list(range(20))


async def test_a_round_that_takes_long_leaves_the_rest_to_the_next() -> None:
    relay = relay_to(publisher := Picky())
    relay._since = time.monotonic() - 3600
    assert await relay._publish([waiting(1, "a"), waiting(2, "a")]) == ([], None)
    assert publisher.taken == []


async def test_an_outage_is_logged_once_and_not_at_every_try(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invalidator.relay.pause", lambda: 0.0)
    relay = relay_to(Picky())
    for _ in range(20):
        await relay._survive(UnreachableError("no broker answers"), asyncio.Event())
    assert ["cannot publish from the outbox; events stay in the table, retrying reason='no broker answers'"] == (
        caplog.messages
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, '"outbox.url" is missing'),
        ("postgres at home", "should read postgresql://"),
        ("mongodb://shop:secret@db/shop", "should read postgresql://"),
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(url: str | None, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        engine_of(OutboxSettings(url=Secret(url) if url else None))
    assert "secret" not in str(raised.value)


def test_libpqs_own_form_of_a_url_means_psycopg() -> None:
    engine = engine_of(OutboxSettings(url=Secret("postgresql://shop@db/shop")))
    assert engine.dialect.driver == "psycopg"
