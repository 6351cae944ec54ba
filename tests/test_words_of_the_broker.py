"""Errors of aiormq, in our words."""

import pytest

from invalidator.broker.connection import in_our_words
from invalidator.errors import UnreachableError


async def test_a_call_whose_channel_this_program_has_closed_has_lost_the_broker() -> None:
    """aiormq raises a bare `Exception` then, which would end a worker."""
    with pytest.raises(UnreachableError, match="lost the broker while looking: the channel was closed"):
        async with in_our_words("looking"):
            raise Exception


async def test_a_bug_of_this_program_stays_what_it_is() -> None:
    with pytest.raises(KeyError):
        async with in_our_words("looking"):
            raise KeyError("typo")
