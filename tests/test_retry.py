"""The rule by which publishers try again, with a clock of the test's own."""

import pytest

from invalidator.app.publish.retry import Retry
from invalidator.errors import RefusedError, UnconfirmedError, UnreachableError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_unconfirmed_publish_is_tried_again_once() -> None:
    retry = Retry(1.0, clock=Clock())
    retry.failed(UnconfirmedError("lost"))
    with pytest.raises(UnconfirmedError, match=r"^lost again$"):
        retry.failed(UnconfirmedError("lost again"))


def test_there_is_no_second_try_after_the_deadline() -> None:
    clock = Clock()
    retry = Retry(1.0, clock=clock)
    clock.now += 1.0
    assert 0.0 == retry.left
    with pytest.raises(UnconfirmedError):
        retry.failed(UnconfirmedError("lost"))


@pytest.mark.parametrize("error", [RefusedError("no"), UnreachableError("nobody")])
def test_a_publish_that_cannot_have_gone_out_is_not_tried_again(error: RefusedError | UnreachableError) -> None:
    with pytest.raises(type(error)) as raised:
        Retry(1.0, clock=Clock()).failed(error)
    assert raised.value is error


def test_after_a_first_try_that_may_have_gone_out_the_error_stays_a_maybe() -> None:
    retry = Retry(1.0, clock=Clock())
    retry.failed(UnconfirmedError("lost"))
    with pytest.raises(UnconfirmedError, match=r"^nobody; the first try may have gone out$"):
        retry.failed(UnreachableError("nobody"))
