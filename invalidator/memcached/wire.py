"""The bytes that are sent to a memcached node, and the only answers that confirm them. Pure.

    keys ──> chunks: delete <key> noreply, once a key, then one fence: md <reserved key> O<number>
                                                                          │
                                       confirmed by exactly  NF O<number>  or  HD O<number>

Rules of this file:

1. No control character, no space, and no key over 250 bytes, prefix included, gets into a request: in a quiet command
   a bad key is silent (memcached drops the error of a ``noreply``) or shifts every answer after it. Bytes from 0x80 on
   are for clients that store their keys as UTF-8.
2. A number names one chunk and is not used again soon: a late answer must never confirm another chunk.
3. Only a meta command fences. A node without them is refused and its keys are parked. A classic command could end a
   batch too, but its answer has no number, so a stray answer would confirm a chunk. And what lacks meta commands today
   is mostly a proxy, which spreads the deletes over several nodes: the answer for one key proves nothing of the others.

Source: memcached's doc/protocol.txt, "Meta Delete" and "Meta Debug"; ``NF`` with its opaque since 1.6.18 at the latest.
"""

import itertools
import random
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from invalidator.errors import PoisonError
from invalidator.memcached.failure import Failure

#: The oldest memcached that repeats the number of a fence in every answer.
LEAST_VERSION: Final = "1.6.18"
#: Length of the longest key that memcached accepts, in bytes.
LONGEST_KEY: Final = 250

#: Deleted by every fence. Legal for memcached, printable, and hardly ever an application's key. If somebody stores it
#: all the same, ``HD`` confirms too.
RESERVED_KEY: Final = "invalidator·fence".encode()

#: The command whose answer proves that everything before it was done: a node serves a connection in order.
_FENCE: Final = b"md " + RESERVED_KEY + b" "

_ALPHABET: Final = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
_KEY: Final = re.compile(rb"[^\x00-\x20\x7f]+")

_TOO_OLD: Final = f"it is too old; use memcached {LEAST_VERSION} or later"
#: What the first bytes of a wrong answer show about the node.
_REFUSALS: Final = {
    b"ERROR\r\n": (
        Failure.PROTOCOL,
        f"it knows no meta commands; use memcached {LEAST_VERSION} or later, and no proxy before it",
    ),
    b"NF\r\n": (Failure.PROTOCOL, _TOO_OLD),
    b"HD\r\n": (Failure.PROTOCOL, _TOO_OLD),
    b"-ERR ": (Failure.PROTOCOL, "it is not a memcached node but speaks Redis' protocol"),
    b"HTTP/": (Failure.PROTOCOL, "it is not a memcached node but speaks HTTP"),
    b"\x15\x03": (Failure.TLS, "it speaks TLS; set memcached.tls = true"),
    b"CLIENT_ERROR unauthenticated": (Failure.LOGIN_REQUIRED, "it requires a login"),
    b"ERROR Too many open connections": (Failure.FULL, "it has as many connections as it accepts"),
}

#: From a random start, so that two processes behind one proxy do not share numbers. At most 20 digits of 32.
_numbers = itertools.count(random.SystemRandom().randrange(10**15, 10**18))


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Deletes that are confirmed together. Nodes can share a chunk, as each has a connection of its own."""

    #: As the application names them, without the prefix.
    keys: Sequence[bytes]
    deletes: bytes
    #: The deletes and the fence, written in one piece.
    request: bytes
    #: Either of these confirms, as the very next bytes; nothing else does. Both have the same length.
    answers: tuple[bytes, bytes]

    def again(self) -> "Chunk":
        """Return the same deletes with another number, for a fresh connection."""
        return _chunk(self.keys, self.deletes)


def chunks(keys: Sequence[bytes], *, prefix: bytes = b"", size: int = 1000) -> list[Chunk]:
    """Encode ``keys`` in chunks of at most ``size``.

    Raises:
        PoisonError: memcached cannot store a key with its prefix; nothing was encoded.
    """
    parts = [keys] if len(keys) <= size else [keys[start : start + size] for start in range(0, len(keys), size)]
    return [_chunk(part, deletes(part, prefix=prefix)) for part in parts if part]


def bare_fence() -> Chunk:
    """Return a fence with no deletes before it: the node answers it, and no key is touched."""
    return _chunk((), b"")


def flush() -> Chunk:
    """Return a chunk that deletes everything on the node, with a fence like any other."""
    return _chunk((), b"flush_all noreply\r\n")


def _chunk(keys: Sequence[bytes], encoded: bytes) -> Chunk:
    number = b"O%d\r\n" % next(_numbers)
    return Chunk(keys, encoded, encoded + _FENCE + number, (b"NF " + number, b"HD " + number))


def deletes(keys: Sequence[bytes], *, prefix: bytes = b"") -> bytes:
    """Encode ``delete <prefix><key> noreply``, one line a key.

    Raises:
        PoisonError: as in :func:`chunks`.
    """
    if not keys:
        return b""
    before, after = b"delete " + prefix, b" noreply\r\n"
    encoded = before + (after + before).join(keys) + after
    # Checked on the bytes to be written: without the printable ones, two spaces and a line end a key must be left.
    is_strange = encoded.translate(None, _ALPHABET) != b"  \r\n" * len(keys)
    if is_strange or not all(keys) or len(prefix) + max(map(len, keys)) > LONGEST_KEY:
        raise _refusal(keys, prefix)
    return encoded


def _refusal(keys: Sequence[bytes], prefix: bytes) -> PoisonError:
    if prefix and not _KEY.fullmatch(prefix):
        return PoisonError("bad-key", f"the key prefix {prefix!r} has a byte that no memcached key may have: change it")
    for key in keys:
        if not _KEY.fullmatch(key):
            return PoisonError(
                "bad-key", f"{key!r} is not a memcached key: it is empty, or holds a space or a control character"
            )
        if len(prefix) + len(key) > LONGEST_KEY:
            return PoisonError("bad-key", f"{key!r} is over {LONGEST_KEY} bytes with its prefix: no cache can hold it")
    raise AssertionError("the fast check and the slow one disagree")


def refusal(answer: bytes) -> tuple[Failure, str] | None:
    """Return why a node that answers like this cannot be used, in one word and in a few; else None."""
    return next((meaning for beginning, meaning in _REFUSALS.items() if answer.startswith(beginning)), None)
