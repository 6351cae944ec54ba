"""The strict fence on one connection, byte by byte, with no socket."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.memcached.connection import Connection, Sending
from invalidator.memcached.eviction import Eviction
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import chunks


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted += 1


class Recorder:
    """An owner that keeps what it is notified of."""

    def __init__(self) -> None:
        self.confirmations: list[Sending] = []
        self.endings: list[str] = []
        self.failures: list[Failure] = []

    def confirmed(self, sending: Sending) -> None:
        self.confirmations.append(sending)

    def broken(self, connection: Connection, failure: Failure, reason: str) -> None:
        self.endings.append(reason)
        self.failures.append(failure)


class Line:
    """A connection with some chunks sent, and what the node answers fed in by hand."""

    def __init__(self, number_of_chunks: int) -> None:
        self.transport, self.recorder = FakeTransport(), Recorder()
        self.connection = Connection(self.recorder)
        self.connection.connection_made(self.transport)
        keys = [b"key:%d" % index for index in range(number_of_chunks)]
        # The eviction is not used here.
        nobody = cast(Eviction, None)
        self.sendings = [Sending(chunk, nobody) for chunk in chunks(keys, size=1)]
        for sending in self.sendings:
            self.connection.send(sending)

    def answer(self, index: int, *, hit: bool = False) -> bytes:
        return self.sendings[index].chunk.answers[hit]

    def feed(self, *pieces: bytes) -> None:
        # As asyncio does: after an abort nothing is delivered any more.
        for piece in pieces:
            if not self.transport.aborted:
                self.connection.data_received(piece)


def test_chunk_is_written_in_one_piece() -> None:
    line = Line(2)
    assert line.transport.written == [sending.chunk.request for sending in line.sendings]


@pytest.mark.parametrize("hit", [False, True])
def test_its_own_answer_confirms_a_chunk(hit: bool) -> None:
    line = Line(2)
    line.feed(line.answer(0, hit=hit))
    assert line.recorder.confirmations == line.sendings[:1]
    assert list(line.connection.outstanding) == line.sendings[1:]


def test_answers_in_one_read_or_in_drips_confirm_in_order() -> None:
    together, drips = Line(3), Line(3)
    together.feed(b"".join(map(together.answer, range(3))))
    drips.feed(*(bytes([byte]) for index in range(3) for byte in drips.answer(index, hit=index == 1)))
    for line in (together, drips):
        assert line.recorder.confirmations == line.sendings
        assert line.recorder.endings == []


def test_all_but_the_last_byte_of_an_answer_confirms_nothing() -> None:
    line = Line(1)
    line.feed(line.answer(0)[:-1])
    assert line.recorder.confirmations == []
    assert line.recorder.endings == []


@pytest.mark.parametrize(
    "stray",
    [b"\r\n", b"ERROR\r\n", b"SERVER_ERROR out of memory\r\n", b"NF O1\r\n", b"NF\r\n", b"MN\r\n", b"\0", b"nf "],
)
def test_anything_else_ends_the_connection_at_its_first_wrong_byte(stray: bytes) -> None:
    line = Line(1)
    line.feed(stray, line.answer(0))
    assert line.recorder.confirmations == []
    assert len(line.recorder.endings) == 1
    assert line.transport.aborted == 1


def test_answer_of_the_next_chunk_confirms_neither() -> None:
    line = Line(2)
    line.feed(line.answer(1), line.answer(0))
    assert line.recorder.confirmations == []
    assert line.transport.aborted == 1


def test_second_answer_to_one_fence_ends_the_connection_before_the_next_chunk() -> None:
    line = Line(2)
    line.feed(line.answer(0) * 2 + line.answer(1))
    assert line.recorder.confirmations == line.sendings[:1]
    assert line.transport.aborted == 1


def test_unasked_byte_ends_an_idle_connection() -> None:
    line = Line(0)
    line.feed(b"\n")
    assert line.recorder.endings == ["the node sent b'\\n' unasked"]


def test_surplus_byte_after_the_last_answer_ends_the_connection() -> None:
    line = Line(1)
    line.feed(line.answer(0) + b"N")
    assert line.recorder.confirmations == line.sendings
    assert line.transport.aborted == 1


def test_owner_is_notified_once_why_a_connection_ended() -> None:
    line = Line(1)
    line.feed(b"garbage")
    line.connection.connection_lost(None)
    assert len(line.recorder.endings) == 1


def test_nothing_is_written_to_an_ended_connection() -> None:
    line = Line(1)
    line.connection.connection_lost(OSError("reset"))
    line.connection.send(line.sendings[0])
    assert len(line.transport.written) == 1
    assert line.recorder.endings == ["connection lost: reset"]


@st.composite
def replies(draw: st.DrawFn) -> tuple[int, list[int | bytes], int]:
    """Draw the number of chunks sent, the reply (answers by index, or other bytes), and the size of a read."""
    sent = draw(st.integers(0, 5))
    honest: list[int | bytes] = list(range(sent))
    said = draw(
        st.one_of(
            st.just(honest),
            st.lists(
                st.one_of(st.integers(0, max(sent - 1, 0)), st.binary(max_size=4), st.just(b"NF O"), st.just(b"HD O")),
                max_size=7,
            ),
            st.tuples(st.just(honest), st.integers(0, sent), st.binary(max_size=3)).map(
                lambda cut: [*cut[0][: cut[1]], cut[2], *cut[0][cut[1] :]]
            ),
        )
    )
    return sent, said, draw(st.integers(1, 40))


@given(replies())
def test_chunk_is_confirmed_only_if_its_answer_and_nothing_else_came_next(
    reply: tuple[int, list[int | bytes], int],
) -> None:
    sent, said, read = reply
    line = Line(sent)
    stream = b"".join(part if isinstance(part, bytes) else line.answer(part) if sent else b"" for part in said)
    line.feed(*(stream[start : start + read] for start in range(0, len(stream), read)))
    expected = 0
    while expected < sent and stream.startswith(line.answer(expected)):
        stream = stream[len(line.answer(expected)) :]
        expected += 1
    assert line.recorder.confirmations == line.sendings[:expected]
    if expected < sent and line.answer(expected).startswith(stream):
        assert not line.transport.aborted
    elif stream and not (expected < sent and line.answer(expected, hit=True).startswith(stream)):
        assert line.transport.aborted == 1
