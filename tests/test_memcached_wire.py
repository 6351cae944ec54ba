"""The bytes of deletes and fences."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import PoisonError
from invalidator.memcached import wire

GOOD_KEY = st.from_regex(rb"[\x21-\x7e\x80-\xff]{1,250}", fullmatch=True)
ANY_KEY = st.one_of(GOOD_KEY, st.binary(max_size=300), st.binary(min_size=245, max_size=255))
REQUEST = re.compile(rb"(delete [\x21-\x7e\x80-\xff]{1,250} noreply\r\n)*md invalidator\xc2\xb7fence O\d{1,32}\r\n")


def test_deletes_and_fence_are_written_as_one_request() -> None:
    [chunk] = wire.chunks([b"product:1", b"product:2"], prefix=b"shop:")
    number = chunk.answers[0].removeprefix(b"NF O").removesuffix(b"\r\n")
    assert chunk.request == (
        b"delete shop:product:1 noreply\r\n"
        b"delete shop:product:2 noreply\r\n"
        b"md invalidator\xc2\xb7fence O" + number + b"\r\n"
    )


def test_both_answers_of_a_fence_carry_its_number() -> None:
    chunk = wire.bare_fence()
    number = chunk.request.split(b"O")[1]
    assert chunk.answers == (b"NF O" + number, b"HD O" + number)


def test_bare_fence_touches_no_key() -> None:
    assert wire.bare_fence().request.startswith(b"md invalidator\xc2\xb7fence O")


def test_no_two_chunks_share_a_number_and_a_repeat_has_a_new_one() -> None:
    chunks = wire.chunks([b"a", b"b", b"c"], size=1)
    chunks += [chunk.again() for chunk in chunks]
    assert len({chunk.answers for chunk in chunks}) == 6
    assert chunks[0].deletes == chunks[3].deletes


def test_keys_are_split_into_chunks_in_their_order() -> None:
    keys = [b"a", b"b", b"c", b"d", b"e"]
    assert [chunk.keys for chunk in wire.chunks(keys, size=2)] == [[b"a", b"b"], [b"c", b"d"], [b"e"]]


def test_no_keys_are_no_chunks() -> None:
    assert wire.chunks([]) == []


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (b"1\r\nflush_all", "a space or a control character"),
        (b"two words", "a space or a control character"),
        (b"tab\t", "a space or a control character"),
        (b"\x7f", "a space or a control character"),
        (b"", "a space or a control character"),
        (b"k" * 251, "250 bytes"),
    ],
)
def test_bad_key_is_refused_with_its_reason(key: bytes, says: str) -> None:
    with pytest.raises(PoisonError, match=says) as refused:
        wire.chunks([b"good", key, b"too"])
    assert refused.value.reason == "bad-key"


def test_prefix_counts_into_the_length_of_a_key() -> None:
    wire.deletes([b"k" * 245], prefix=b"shop:")
    with pytest.raises(PoisonError, match="with its prefix"):
        wire.deletes([b"k" * 246], prefix=b"shop:")


def test_bad_prefix_is_refused_as_such() -> None:
    with pytest.raises(PoisonError, match="prefix b'my shop:' has"):
        wire.deletes([b"a"], prefix=b"my shop:")


@given(st.lists(ANY_KEY, min_size=1, max_size=8), st.sampled_from([b"", b"shop:", b" ", b"\r\n"]))
def test_no_byte_outside_the_alphabet_gets_into_a_request(keys: list[bytes], prefix: bytes) -> None:
    good = all(re.fullmatch(rb"[\x21-\x7e\x80-\xff]{1,250}", prefix + key) and key for key in keys)
    try:
        requests = [chunk.request for chunk in wire.chunks(keys, prefix=prefix, size=3)]
    except PoisonError:
        assert not good
        return
    assert good
    assert all(REQUEST.fullmatch(request) for request in requests)
    assert [key for request in requests for key in re.findall(rb"delete (\S+) noreply\r\n", request)] == [
        prefix + key for key in keys
    ]


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_but_spaces_and_control_characters_is_part_of_a_key(byte: int) -> None:
    key = b"a" + bytes([byte])
    if byte <= 0x20 or byte == 0x7F:
        with pytest.raises(PoisonError):
            wire.deletes([key])
    else:
        assert b"delete " + key + b" noreply\r\n" == wire.deletes([key])


def test_a_client_may_store_the_key_that_fences_delete() -> None:
    assert wire.deletes([wire.RESERVED_KEY])
