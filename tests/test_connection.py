"""Connecting to a scripted broker that refuses, and the errors of aiormq in our words."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import aiormq
import pamqp.frame
import pytest
from pamqp import commands
from pamqp.base import Frame

from invalidator.broker.connection import InequivalentArgumentError, connect, in_our_words
from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.settings import BrokerSettings

START = commands.Connection.Start(0, 9, {}, "PLAIN", "en_US")
TUNE = commands.Connection.Tune(2047, 131072, 10)


@asynccontextmanager
async def answering(*answers: Sequence[Frame]) -> AsyncIterator[BrokerSettings]:
    """Listen as a broker that has one answer for each of a client's first messages, and then closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for frames in answers:
            await reader.read(4096)
            writer.write(b"".join(pamqp.frame.marshal(frame, 0) for frame in frames))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        yield BrokerSettings(url=f"amqp://shop:secret@127.0.0.1:{port}/nowhere", connect_timeout=5.0)


async def test_the_text_of_a_refusal_is_found_where_aiormq_7_leaves_it() -> None:
    """aiormq drops code and text of a Connection.Close; `connection._last_close` finds them in a local of aiormq's."""
    closing = commands.Connection.Close(530, "NOT_ALLOWED - vhost nowhere not found", 10, 40)
    async with answering([START], [TUNE], [closing]) as broker:
        with pytest.raises(
            RefusedError, match='refuses user "shop": NOT_ALLOWED - vhost nowhere not found; see broker'
        ):
            await connect(broker, name="test")
    assert "7" == version("aiormq").partition(".")[0], "read connection._last_close against the new version first"


async def test_another_close_while_connecting_gives_its_code_and_text() -> None:
    closing = commands.Connection.Close(541, "INTERNAL_ERROR - out of luck", 10, 40)
    async with answering([START], [TUNE], [closing]) as broker:
        with pytest.raises(UnreachableError, match=r"127.0.0.1:[0-9]+: 541 INTERNAL_ERROR - out of luck"):
            await connect(broker, name="test")


async def test_a_wrong_password_is_a_refusal_that_names_the_settings() -> None:
    closing = commands.Connection.Close(403, "ACCESS_REFUSED", 0, 0)
    async with answering([START], [closing]) as broker:
        with pytest.raises(RefusedError, match=r"wrong user or password; see broker.url and broker.password_file"):
            await connect(broker, name="test")


async def test_a_queue_with_another_argument_is_an_error_with_the_name_of_the_argument() -> None:
    text = "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'a' in vhost '/': received -1"
    with pytest.raises(InequivalentArgumentError) as caught:
        async with in_our_words("declaring"):
            raise aiormq.exceptions.ChannelPreconditionFailed(text)
    assert "x-delivery-limit" == caught.value.argument
    assert text in str(caught.value)


async def test_another_failed_precondition_names_no_argument() -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with in_our_words("declaring"):
            raise aiormq.exceptions.ChannelPreconditionFailed("PRECONDITION_FAILED - unknown delivery tag 1")
    assert ConfigurationError is type(caught.value)
