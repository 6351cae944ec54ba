"""The broker's addresses: which one is tried, and what is reported when none answers."""

import pytest

from invalidator.broker.address import Attempts
from invalidator.errors import InvalidatorError, RefusedError, UnreachableError
from invalidator.settings import BrokerUrl

FIRST, SECOND = BrokerUrl.parse("amqp://shop@mq-1/"), BrokerUrl.parse("amqp://shop@mq-2:5673/")


def connected(answers: dict[BrokerUrl, InvalidatorError | None]) -> BrokerUrl:
    attempts = Attempts()
    for url, error in answers.items():
        with attempts.at(url):
            if error:
                raise error
            return url
    raise attempts.failure()


def test_the_first_address_that_answers_is_used() -> None:
    assert SECOND == connected({FIRST: UnreachableError("no answer in time"), SECOND: None})
    assert FIRST == connected({FIRST: None, SECOND: UnreachableError("not tried")})


def test_where_none_answers_the_error_gives_the_reason_of_each() -> None:
    answers: dict[BrokerUrl, InvalidatorError | None] = {
        FIRST: UnreachableError("no answer in time"),
        SECOND: UnreachableError("Connection refused"),
    }
    with pytest.raises(
        UnreachableError, match="no broker answers: mq-1:5672: no answer in time; mq-2:5673: Connection"
    ):
        connected(answers)


def test_a_refusal_ends_the_attempts_and_names_address_and_user() -> None:
    with pytest.raises(RefusedError, match=r'^mq-1:5672 refuses user "shop": wrong user or password$'):
        connected({FIRST: RefusedError("wrong user or password"), SECOND: None})
