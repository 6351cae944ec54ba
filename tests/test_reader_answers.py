"""Malformed and unsolicited answers of memcached: both twins close the connection and serve from the source."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.nodes.async_nodes import AsyncNode
from invalidator.app.cache.nodes.protocol import (
    ErrorReply,
    MalformedError,
    Numbered,
    all_items,
    only_item,
    refused,
    request,
)
from invalidator.app.cache.nodes.routing import Token
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached

K = "k"
Read = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def node() -> Iterator[LyingMemcached]:
    with LyingMemcached() as node:
        yield node


@pytest.fixture(params=["threads", "asyncio"])
def read(request: pytest.FixtureRequest, node: LyingMemcached) -> Iterator[Read]:
    """Yield a function that reads the key through one of the twins."""
    if request.param == "threads":
        with closing(LookAsideCache([node.address], timeout=1.0, patience=0)) as cache:
            yield lambda load: cache.get_or_load(K, load, ttl=60)
        return
    twin = AsyncLookAsideCache([node.address], timeout=1.0, patience=0)

    async def once(load: Callable[[], Any]) -> Any:
        async def loaded() -> Any:
            return load()

        return await twin.get_or_load(K, loaded, ttl=60)

    async def end() -> None:
        twin.close()

    with asyncio.Runner() as runner:
        yield lambda load: runner.run(once(load))
        runner.run(end())


def never() -> Any:
    raise AssertionError("loaded, and should not have been")


ANY_VERB: list[bytes | None] = [
    None, b"", b"STO", b"\xff\r\n", b"\r\n", b"OK\r\n", b"x" * 5000, b"VALUE k 0\r\n", b"VALUE", b"END", b"HD\r\n",
]  # fmt: skip
ERRORS = [b"SERVER_ERROR out of memory\r\n", b"CLIENT_ERROR bad data chunk\r\n", b"ERROR\r\n"]
GET = [
    b"VALUE k 0\r\n",
    b"VALUE k 0 1\r\n7\r\n",
    b"VALUE k 0 1\r\n7\r\nEND",
    b"VALUE other 0 1\r\n7\r\nEND\r\n",
    b"VALUE k 0 letters\r\n7\r\nEND\r\n",
    b"VALUE k letters 1\r\n7\r\nEND\r\n",
    b"VALUE k 0 -1\r\n7\r\nEND\r\n",
    b"VALUE k 0 1 5\r\n7\r\nEND\r\n",
    b"VALUE k 0 2\r\n7\r\nEND\r\n",
    b"VALUE k 0 1\r\n77\r\nEND\r\n",
    b"VALUE k 0 1\r\n7xxEND\r\n",
    b"VALUE k 0 1\r\n7\r\nVALUE k 0 1\r\n8\r\nEND\r\n",
    b"VALUE k 0 1\r\n7\r\nEND\r\nVALUE k 0 1\r\n7\r\nEND\r\n",
    b"VALUE k 4294967296 1\r\n7\r\nEND\r\n",
    b"VALUE k 0 %b\r\n" % (b"9" * 5000),
    b"VALUE k 0 9999999999\r\n7\r\nEND\r\n",
    "VALUE k 0 ¹\r\n7\r\nEND\r\n".encode(),
    b"END\r\nEND\r\n",
    b"STORED\r\n",
]

ADD = [b"STORED\r\nSTORED\r\n", b"EXISTS\r\n", b"END\r\n", b"STORED\r\nE"]


@pytest.mark.parametrize("lie", [*ANY_VERB, *ERRORS, *GET])
def test_malformed_get_is_served_from_the_source_and_nothing_stored(
    node: LyingMemcached, read: Read, lie: bytes | None
) -> None:
    node.lies[b"get"] = lie
    assert "loaded" == read(lambda: "loaded")
    assert ["get"] == node.verbs


@pytest.mark.parametrize("lie", [*ANY_VERB, *ERRORS, *ADD])
def test_malformed_add_is_served_from_the_source_and_nothing_filled(
    node: LyingMemcached, read: Read, lie: bytes | None
) -> None:
    node.lies[b"add"] = lie
    assert "loaded" == read(lambda: "loaded")
    assert ["get", "add"] == node.verbs
    assert node.value(K) is None


P = b"f" * 32
LEASE_LINE = b"VALUE k %d 32" % LEASE


@pytest.mark.parametrize(
    "lie",
    [
        *ANY_VERB,
        LEASE_LINE + b"\r\n" + P + b"\r\nEND\r\n",
        LEASE_LINE + b" \r\n" + P + b"\r\nEND\r\n",
        LEASE_LINE + b" 1 1\r\n" + P + b"\r\nEND\r\n",
        LEASE_LINE + b" x\r\n" + P + b"\r\nEND\r\n",
        LEASE_LINE + b" -1\r\n" + P + b"\r\nEND\r\n",
        LEASE_LINE + b" 1\r\n" + P + b"\r\nEND\r\nEND\r\n",
        b"VALUE other %d 32 1\r\n" % LEASE + P + b"\r\nEND\r\n",
    ],
)
def test_malformed_gets_is_followed_by_no_command_that_stores(
    node: LyingMemcached, read: Read, lie: bytes | None
) -> None:
    node.lies[b"gets"] = lie
    assert "loaded" == read(lambda: "loaded")
    assert ["get", "add", "gets"] == node.verbs
    assert node.value(K) is None


@pytest.mark.parametrize("lie", [*ANY_VERB, b"NOT_STORED\r\n", b"STORED\r\nSTORED\r\n", b"END\r\n"])
def test_malformed_cas_is_served_from_the_source_and_not_repeated(
    node: LyingMemcached, read: Read, lie: bytes | None
) -> None:
    node.lies[b"cas"] = lie
    assert "loaded" == read(lambda: "loaded")
    assert ["get", "add", "gets", "cas"] == node.verbs


@pytest.mark.parametrize("lie", ERRORS)
@pytest.mark.parametrize("verb", [b"gets", b"cas"])
def test_refused_fill_is_served_from_the_source(node: LyingMemcached, read: Read, verb: bytes, lie: bytes) -> None:
    node.lies[verb] = lie
    assert "loaded" == read(lambda: "loaded")
    assert node.value(K) is None or verb == b"cas"


def test_unsolicited_answer_ends_the_idle_connection(node: LyingMemcached, read: Read) -> None:
    node.put(K, b'"new"')
    assert "new" == read(never)
    node.accepted[0].sendall(b'VALUE k 0 5\r\n"old"\r\nEND\r\n')
    assert "new" == read(never)
    assert 2 == len(node.accepted)


def test_unsolicited_answer_is_taken_for_a_cas_at_most_and_stores_nothing(node: LyingMemcached, read: Read) -> None:
    def evict(verb: str) -> None:
        if verb == "cas":
            node.items.clear()
            node.accepted[-1].sendall(b"STORED\r\n")

    node.before = evict
    assert "old" == read(lambda: "old")
    node.before = lambda verb: None
    assert node.value(K) is None
    assert "new" == read(lambda: "new")
    assert node.value(K) != b'"old"'


def test_node_without_cas_numbers_is_found_once_and_read_through(node: LyingMemcached, read: Read) -> None:
    node.lies[b"gets"] = LEASE_LINE + b" 0\r\n" + P + b"\r\nEND\r\n"
    assert [1, 1, 1] == [read(lambda: 1) for _ in range(3)]
    assert ["get", "add", "gets", "get", "get"] == node.verbs, "later reads neither add nor wait"
    node.put(K, b"7")
    assert 7 == read(never), "values of other clients are still read"


def test_a_hundred_missing_keys_cost_four_round_trips(node: LyingMemcached) -> None:
    keys = [f"product:{number}" for number in range(100)]
    with closing(LookAsideCache([node.address])) as cache:
        assert dict.fromkeys(keys, 1) == cache.get_many_or_load(keys, lambda keys: dict.fromkeys(keys, 1), ttl=60)
        assert ["get", *["add"] * 100, "gets", *["cas"] * 100] == node.verbs
        assert 4 == node.round_trips
        assert dict.fromkeys(keys, 1) == cache.get_many_or_load(keys, lambda keys: never(), ttl=60)


def test_all_nodes_are_asked_before_the_first_answer_is_awaited() -> None:
    asked = threading.Barrier(3)

    def wait_for_the_others(verb: str) -> None:
        asked.wait(20)

    with ExitStack() as stack:
        nodes = [stack.enter_context(LyingMemcached()) for _ in range(3)]
        cache = stack.enter_context(closing(LookAsideCache([node.address for node in nodes], timeout=30)))
        keys = [f"product:{number}" for number in range(30)]
        cache.get_many_or_load(keys, lambda keys: dict.fromkeys(keys, 1), ttl=60)
        for node in nodes:
            node.before = wait_for_the_others
        assert dict.fromkeys(keys, 1) == cache.get_many_or_load(keys, lambda keys: never(), ttl=60)


async def test_tasks_share_a_connection_and_a_refused_request_fails_no_node(node: LyingMemcached) -> None:
    twin = AsyncLookAsideCache([node.address], timeout=30)

    async def load() -> str:
        return "loaded"

    node.put("a", b'"stored"')
    assert "stored" == await twin.get_or_load("a", load, ttl=60)
    node.lies[b"get"] = b"SERVER_ERROR out of memory\r\n"
    with capture_logs() as logs:
        reads = (twin.get_or_load(key, load, ttl=60) for key in "abcdefgh")
        assert ["loaded"] * 8 == await asyncio.gather(*reads)
    assert [] == logs, "the node is not taken for down"
    assert 1 == len(node.accepted)
    del node.lies[b"get"]
    assert "stored" == await twin.get_or_load("a", load, ttl=60)
    assert 2 == len(node.accepted)
    twin.close()
    await asyncio.sleep(0)


async def test_only_the_first_of_several_requests_is_refused_by_an_error_line(node: LyingMemcached) -> None:
    host, port = node.address.split(":")
    reader = AsyncNode("n1", Address(host, int(port)), prefix="", timeout=30, access=Access())
    assert [None] == await reader.answer([Get("a")])
    node.lies[b"get"] = b"ERROR\r\n"
    answers = await asyncio.gather(*(reader.answer([Get(key)]) for key in "abc"))
    assert [[Failure.REFUSED], [Failure.DOWN], [Failure.DOWN]] == answers
    reader.close()
    await asyncio.sleep(0)


def test_items_of_other_clients_are_never_interpreted_among_many(node: LyingMemcached) -> None:
    node.items |= {b"a": (b"7", b"16", 1), b"b": (b"7", b"16", 2)}
    with closing(LookAsideCache([node.address])) as cache:
        assert {"a": 1, "b": 1} == cache.get_many_or_load("ab", lambda keys: dict.fromkeys(keys, 1), ttl=60)


# The parser

TOKEN = Token(None, None, b"77")


def fed(commands: Sequence[Any], pieces: Sequence[bytes]) -> list[Any]:
    """Return the answers after all pieces; every piece but the last leaves the reply incomplete."""
    reply = request(commands, b"").reply
    assert [False] * (len(pieces) - 1) + [True] == [reply.feed(piece) for piece in pieces]
    assert b"" == reply.excess
    return reply.answers


def in_pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


LINES = st.lists(st.sampled_from([b"STORED", b"NOT_STORED", b"SERVER_ERROR x"]), min_size=1)
VALUES = st.dictionaries(st.sampled_from("abc"), st.tuples(st.binary(max_size=40), st.integers(0, 2**32 - 1)))


@given(VALUES, st.lists(st.integers(0, 1000)), st.booleans())
def test_answer_to_a_get_means_the_same_in_whatever_pieces_it_arrives(
    values: dict[str, tuple[bytes, int]], cuts: list[int], numbered: bool
) -> None:
    number = b" 77" if numbered else b""
    lines = [
        b"VALUE %b %d %d%b\r\n%b\r\n" % (key.encode(), flags, len(data), number, data)
        for key, (data, flags) in values.items()
    ]
    answers = fed([(Gets if numbered else Get)(key) for key in "abc"], in_pieces(b"".join(lines) + b"END\r\n", cuts))
    items = [Item(*values[key]) if key in values else None for key in "abc"]
    assert [item and (Numbered(item, b"77") if numbered else item) for item in items] == answers


@given(
    st.lists(st.sampled_from([b"STORED", b"NOT_STORED", b"SERVER_ERROR x"]), min_size=1), st.lists(st.integers(0, 99))
)
def test_answers_to_many_adds_keep_their_order(lines: list[bytes], cuts: list[int]) -> None:
    meaning = {b"STORED": True, b"NOT_STORED": False, b"SERVER_ERROR x": Failure.REFUSED}
    adds = [Add("a", Item(b"1"), 60) for _ in lines]
    data = b"".join(line + b"\r\n" for line in lines)
    assert [meaning[line] for line in lines] == fed(adds, in_pieces(data, cuts))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"VALUE k 0 1\r\n7\r\nEND\r\n", Item(b"7")),
        (b"VALUE k 0 0\r\n\r\nEND\r\n", Item(b"")),
        (b"VALUE k 0 6\r\na\r\nEND\r\nEND\r\n", Item(b"a\r\nEND")),
        (b"VALUE k 1 1\r\n7\r\nEND\r\n", None),
        (b"VALUE other 0 1\r\n7\r\nEND\r\n", None),
        (b"VALUE k 0 2\r\n7\r\nEND\r\n", None),
        (b"VALUE k 0 1\r\n7\r\nEND", None),
        (b"END\r\n", None),
    ],
)
def test_the_one_value_of_a_get_is_recognised_at_a_glance(data: bytes, expected: Item | None) -> None:
    assert expected == only_item(data, b"k")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"VALUE a 0 1\r\n7\r\nVALUE b 0 2\r\n88\r\nEND\r\n", [Item(b"7"), Item(b"88")]),
        (b"VALUE a 0 1\r\n7\r\nEND\r\n", None),
        (b"VALUE b 0 1\r\n7\r\nVALUE a 0 2\r\n88\r\nEND\r\n", None),
        (b"VALUE a 0 1\r\n7\r\nVALUE b 1 2\r\n88\r\nEND\r\n", None),
        (b"VALUE a 0 4\r\n7\r\n7\r\nVALUE b 0 2\r\n88\r\nEND\r\n", None),
        (b"VALUE a 0 1\r\n7\r\nVALUE b 0 2\r\n88\r\nEND\r\nEND\r\n", None),
    ],
)
def test_the_values_of_many_keys_are_recognised_at_a_glance(data: bytes, expected: list[Item] | None) -> None:
    assert expected == all_items(data, [b"a", b"b"])


def test_bytes_behind_an_answer_are_left_over_and_an_empty_line_is_none() -> None:
    reply = request([Add("a", Item(b"1"), 60)], b"").reply
    assert (True, [True], b"STORED\r\n") == (reply.feed(b"STORED\r\nSTORED\r\n"), reply.answers, reply.excess)
    with pytest.raises(MalformedError):
        request([Add("a", Item(b"1"), 60)], b"").reply.feed(b"\r\n")


@pytest.mark.parametrize("command", [Get("a"), Gets("a"), Add("a", Item(b"1"), 60)])
def test_a_line_without_an_end_is_not_waited_for(command: Any) -> None:
    with pytest.raises(MalformedError, match="begins a line without an end"):
        request([command], b"").reply.feed(b"x" * 2049)


def test_answers_before_an_error_line_count_and_the_rest_is_refused() -> None:
    asked = request([Add(key, Item(b"1"), 60) for key in "abc"], b"")
    with pytest.raises(ErrorReply):
        asked.reply.feed(b"STORED\r\nERROR\r\n")
    assert [True, Failure.REFUSED, Failure.REFUSED] == refused(asked)


@given(st.binary(max_size=60))
def test_any_other_bytes_are_malformed_refused_or_incomplete(data: bytes) -> None:
    for commands in ([Get("k")], [Gets("k")], [Add("k", Item(b"1"), 60)], [Cas("k", Item(b"1"), 60, TOKEN)]):
        with suppress(MalformedError, ErrorReply):
            request(commands, b"").reply.feed(data)


def test_verb_follows_from_the_command_and_never_from_its_number() -> None:
    item = Item(b"1")
    assert b"add p:k 0 60 1\r\n1\r\n" == request([Add("k", item, 60)], b"p:").data
    assert b"cas p:k 0 60 1 77\r\n1\r\n" == request([Cas("k", item, 60, TOKEN)], b"p:").data
    with pytest.raises(AssertionError):
        request([Cas("k", item, 60, Token(None, None, b""))], b"p:")
