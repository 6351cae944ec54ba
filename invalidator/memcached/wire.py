"""The bytes that go to a memcached node, and the only answers that confirm them. Pure.

    keys ──> chunks: delete <key> noreply, once a key, then one fence: md <reserved key> O<number>
                                                                          │
                                       confirmed by exactly  NF O<number>  or  HD O<number>

Rules of this file:

1. No key byte outside ``!`` to ``~`` and no key over 250 bytes, prefix included, gets into a request: in a quiet
   command a bad key is silent (memcached drops the error of a ``noreply``) or shifts every answer after it.
2. A number names one chunk and is not used again soon: a late answer must never confirm another chunk.

Source: memcached's doc/protocol.txt, "Meta Delete" and "Meta Debug"; ``NF`` with its opaque since 1.6.18 at the latest.
"""

import itertools
import random
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from invalidator.errors import PoisonError

#: Longest key that memcached takes, in bytes.
LONGEST_KEY: Final = 250

#: Deleted by every fence. Legal for memcached, printable, and never an application's key that we could be asked to
#: evict: its middle dot lies outside the alphabet of keys. Should somebody store it all the same, ``HD`` confirms too.
RESERVED_KEY: Final = "invalidator·fence".encode()

#: The command whose answer says that everything before it was done: a node serves a connection in order.
_FENCE: Final = b"md " + RESERVED_KEY + b" "

_ALPHABET: Final = bytes(range(0x21, 0x7F))
_KEY: Final = re.compile(rb"[\x21-\x7e]+")

#: From a random start, so that two processes behind one proxy do not share numbers either; at most 20 digits of 32.
_numbers = itertools.count(random.SystemRandom().randrange(10**15, 10**18))


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Deletes that are confirmed together. Shared between nodes: each has a connection of its own."""

    #: As the application names them, without the prefix.
    keys: Sequence[bytes]
    deletes: bytes
    #: All that is written, in one piece: the deletes and the fence.
    request: bytes
    #: Either of these, as the very next bytes, confirms; nothing else does. They are equally long.
    answers: tuple[bytes, bytes]

    def again(self) -> "Chunk":
        """The same deletes behind another number, for a fresh connection."""
        return _chunk(self.keys, self.deletes)


def chunks(keys: Sequence[bytes], *, prefix: bytes = b"", size: int = 1000) -> list[Chunk]:
    """``keys`` in chunks of at most ``size``, ready to send.

    Raises:
        PoisonError: a key, with its prefix, is one that memcached cannot take; nothing was encoded.
    """
    parts = [keys] if len(keys) <= size else [keys[start : start + size] for start in range(0, len(keys), size)]
    return [_chunk(part, deletes(part, prefix=prefix)) for part in parts if part]


def bare_fence() -> Chunk:
    """A fence with no deletes before it: it asks whether the node answers, and touches no key."""
    return _chunk((), b"")


def flush() -> Chunk:
    """Everything on the node, behind a fence like any other."""
    return _chunk((), b"flush_all noreply\r\n")


def _chunk(keys: Sequence[bytes], encoded: bytes) -> Chunk:
    number = b"O%d\r\n" % next(_numbers)
    return Chunk(keys, encoded, encoded + _FENCE + number, (b"NF " + number, b"HD " + number))


def deletes(keys: Sequence[bytes], *, prefix: bytes = b"") -> bytes:
    """``delete <prefix><key> noreply``, a line a key.

    Raises:
        PoisonError: as in :func:`chunks`.
    """
    if not keys:
        return b""
    before, after = b"delete " + prefix, b" noreply\r\n"
    encoded = before + (after + before).join(keys) + after
    # Checked on what will be written: but for its printable bytes it is two spaces and a line end a key, and no more.
    strange = encoded.translate(None, _ALPHABET) != b"  \r\n" * len(keys)
    if strange or not all(keys) or len(prefix) + max(map(len, keys)) > LONGEST_KEY:
        raise _refusal(keys, prefix)
    return encoded


def _refusal(keys: Sequence[bytes], prefix: bytes) -> PoisonError:
    if prefix and not _KEY.fullmatch(prefix):
        return PoisonError("bad-key", f"the key prefix {prefix!r} holds a byte that no memcached key may: change it")
    for key in keys:
        if not _KEY.fullmatch(key):
            return PoisonError("bad-key", f"{key!r} is no memcached key: printable ASCII without spaces is (see quote)")
        if len(prefix) + len(key) > LONGEST_KEY:
            return PoisonError("bad-key", f"{key!r} is over {LONGEST_KEY} bytes with its prefix: no cache can hold it")
    raise AssertionError("the fast check and the slow one disagree")
