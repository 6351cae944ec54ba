"""pika and aiormq log nothing of our connections, and everything of the application's own."""

import logging
from collections.abc import Callable

import pika
import pytest

from invalidator.app import AsyncPublisher, Publisher, RabbitEventBus
from invalidator.errors import UnreachableError

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: Publisher(NOWHERE).publish("product_updated", {"id": 7}),
        lambda: RabbitEventBus(NOWHERE).subscribe("product_updated", print),
    ],
    ids=["publisher", "bus"],
)
def test_a_failure_of_ours_is_an_error_and_nothing_else(
    attempt: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnreachableError):
        attempt()
    assert [] == caplog.records


async def test_a_failure_in_a_loop_is_an_error_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UnreachableError):
        await AsyncPublisher(NOWHERE).publish("product_updated", {"id": 7})
    assert [] == caplog.records


def test_the_applications_own_connection_is_not_silenced(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UnreachableError):
        Publisher(NOWHERE).publish("product_updated", {"id": 7})
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(NOWHERE))
    assert any(record.name.startswith("pika") for record in caplog.records)


def test_at_level_debug_nothing_is_silenced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="invalidator")
    with pytest.raises(UnreachableError):
        Publisher(NOWHERE).publish("product_updated", {"id": 7})
    assert any(record.name.startswith("pika") for record in caplog.records)
