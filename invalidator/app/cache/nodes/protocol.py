"""memcached's text protocol, as far as readers use it. Pure: it turns commands into bytes, and bytes into answers.

    commands of one kind ──> Request: bytes to send          bytes ──Reply.feed──> answers, in the order of the commands

Rules of this file:

1. The command decides the verb, never its data.
2. An answer has exactly the form that its commands ask for. Anything else raises `MalformedError`: another key, a
   `gets` without exactly one number, a size that is no number, a value without its end. Bytes after the end are left
   in `Reply.excess`: on a connection that sent nothing else they are malformed too.
3. SERVER_ERROR refuses one command. Other error lines raise `ErrorReply`: memcached may read the value as a command.

Source: memcached's doc/protocol.txt, "Storage commands", "Retrieval command" and "Error strings".
"""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets
from invalidator.app.cache.items import Item

#: Larger than any item that memcached stores, and than any line.
LONGEST_VALUE: Final = 1 << 30
LONGEST_LINE: Final = 2048
#: Flags are 32 bits wide, CAS numbers 64.
MOST_FLAGS: Final = (1 << 32) - 1

#: The line before a value: key, flags and size; and before one with its CAS number.
_LINE: Final = re.compile(rb"VALUE ([^ \r\n]+) (\d{1,10}) (\d{1,10})\r\n")
_NUMBERED_LINE: Final = re.compile(rb"VALUE ([^ \r\n]+) (\d{1,10}) (\d{1,10}) (\d{1,20})\r\n")

_STORED: Final = {b"STORED": True, b"NOT_STORED": False, b"EXISTS": False, b"NOT_FOUND": False}
#: The answers to each verb.
_ANSWERS: Final[dict[type, dict[bytes, bool]]] = {
    Add: {line: _STORED[line] for line in (b"STORED", b"NOT_STORED")},
    Cas: {line: _STORED[line] for line in (b"STORED", b"EXISTS", b"NOT_FOUND")},
}


class MalformedError(Exception):
    """Raised when an answer does not fit its commands. The connection is out of step."""


class ErrorReply(Exception):  # noqa: N818  an answer that is legal
    """Raised when memcached answers with an error line that ends the exchange; the message is that line."""


class Numbered(NamedTuple):
    """An item with its CAS number, the answer to `Gets`."""

    item: Item
    number: bytes


class Reply(Protocol):
    """The answers to one request, while they arrive."""

    #: Those that have arrived so far.
    answers: list[Any]
    #: The bytes that follow a complete reply.
    excess: bytes

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. Return True if the reply is complete.

        Raises:
            MalformedError: the bytes do not answer the commands.
            ErrorReply: memcached ended the exchange with an error.
        """


class Request(msgspec.Struct, frozen=True, gc=False):
    """Commands of one kind for one node, as they are sent."""

    data: bytes
    #: The number of commands.
    count: int
    #: The reply to be fed with the answer.
    reply: Reply


def request(commands: Sequence[Any], prefix: bytes) -> Request:
    """Return the request that sends commands of one kind."""
    kind = type(commands[0])
    if kind is Get or kind is Gets:
        return retrieval([prefix + command.key.encode() for command in commands], numbered=kind is Gets)
    block = _add if kind is Add else _cas
    data = b"".join([block(command, prefix) for command in commands])
    return Request(data, len(commands), Storage(_ANSWERS[kind], len(commands)))


def retrieval(keys: Sequence[bytes], *, numbered: bool = False) -> Request:
    """Return the request that reads keys, prefix included, with `gets` if `numbered`."""
    verb = b"gets " if numbered else b"get "
    return Request(verb + b" ".join(keys) + b"\r\n", len(keys), Retrieval(keys, numbered=numbered))


def login(command: bytes) -> Request:
    """Return the request that logs in."""
    return Request(command, 1, Storage({b"STORED": True}, 1))


def refused(asked: Request) -> list[Any]:
    """Return the answers of a reply that ended with an error line: those before it, and refusals."""
    return asked.reply.answers + [Failure.REFUSED] * (asked.count - len(asked.reply.answers))


def _add(command: Add, prefix: bytes) -> bytes:
    data, flags = command.item.data, command.item.flags
    return b"add %b%b %d %d %d\r\n%b\r\n" % (prefix, command.key.encode(), flags, command.expire, len(data), data)


def _cas(command: Cas, prefix: bytes) -> bytes:
    data, flags = command.item.data, command.item.flags
    number: bytes = command.token.number
    assert number.isdigit()
    return b"cas %b%b %d %d %d %b\r\n%b\r\n" % (
        prefix, command.key.encode(), flags, command.expire, len(data), number, data,
    )  # fmt: skip


def only_item(data: bytes, key: bytes) -> Item | None:
    """Return the item if `data` is exactly the answer to a `get` of one key that has a value; else None.

    This is what `Retrieval` finds too, for the most frequent answer of all.
    """
    begin = data.find(b"\r\n") + 2
    if data[:begin] != b"VALUE %b 0 %d\r\n" % (key, len(data) - begin - 7) or not data.endswith(b"\r\nEND\r\n"):
        return None
    return Item(data[begin:-7])


def all_items(data: bytes, keys: Sequence[bytes]) -> list[Item] | None:
    """Return the items if `data` is exactly the answer to a `get` of keys that all have values; else None.

    Values with line ends are left to `Retrieval`.
    """
    values = data.split(b"\r\n")[1:-2:2]
    if len(values) != len(keys):
        return None
    answer = [b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(value), value) for key, value in zip(keys, values, strict=True)]
    return list(map(Item, values)) if b"".join(answer) + b"END\r\n" == data else None


class Retrieval:
    """The reply to one `get` or `gets` of several keys."""

    def __init__(self, keys: Sequence[bytes], *, numbered: bool) -> None:
        self._keys = keys
        #: The answer to each key so far.
        self._found: dict[bytes, Any] = dict.fromkeys(keys)
        self._is_numbered = numbered
        self._line = _NUMBERED_LINE if numbered else _LINE
        self._rest = self.excess = b""
        self.answers: list[Any] = []

    def feed(self, data: bytes) -> bool:
        if not self._rest and data.endswith(b"\r\nEND\r\n") and (items := all_items(data, self._keys)):
            self.answers = items
            return True
        data = self._rest + data if self._rest else data
        start, match, found = 0, self._line.match, self._found
        while line := match(data, start):
            begin = line.end()
            key, flags, size = line.group(1, 2, 3)
            end = begin + int(size)
            # A key that was not asked for, or was answered already, is not None here.
            if found.get(key, found) is not None or int(flags) > MOST_FLAGS or end - begin > LONGEST_VALUE:
                raise MalformedError(f"{line[0][:80]!r} names another key, or a number out of range")
            if end + 2 > len(data):
                break
            if data[end : end + 2] != b"\r\n":
                raise MalformedError(f"the value of {line[0][:80]!r} is longer than it says")
            item = Item(data[begin:end], int(flags))
            found[key] = Numbered(item, line[4]) if self._is_numbered else item
            start = end + 2
        else:
            if data.startswith(b"END\r\n", start):
                self.excess = data[start + 5 :]
                self.answers = list(map(found.get, self._keys))
                return True
            _check_unfinished(data[start:])
        self._rest = data[start:]
        return False


class Storage:
    """The reply to one or more commands that store."""

    def __init__(self, legal: dict[bytes, bool], count: int) -> None:
        self._legal = legal
        self._count = count
        self._rest = self.excess = b""
        self.answers: list[Any] = []

    def feed(self, data: bytes) -> bool:
        data = self._rest + data if self._rest else data
        start = 0
        while len(self.answers) < self._count and (end := data.find(b"\r\n", start)) >= 0:
            self.answers.append(self._answer(data[start:end]))
            start = end + 2
        if len(self.answers) == self._count:
            self.excess = data[start:]
            return True
        self._rest = data[start:]
        _check_line(self._rest)
        return False

    def _answer(self, line: bytes) -> bool | Failure:
        if line in self._legal:
            return self._legal[line]
        if line.startswith(b"SERVER_ERROR"):
            return Failure.REFUSED
        _raise_error(line)
        raise MalformedError(f"{line[:80]!r} does not answer a command that stores")


def _raise_error(line: bytes) -> None:
    if line == b"ERROR" or line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR")):
        raise ErrorReply(line.decode(errors="replace"))


def _check_unfinished(data: bytes) -> None:
    """Raise if what stands where a value or the end is expected is a whole line that is neither."""
    line, end, _ = data.partition(b"\r\n")
    if end:
        _raise_error(line)
        raise MalformedError(f"{line[:80]!r} does not answer a get")
    _check_line(data)


def _check_line(unfinished: bytes) -> None:
    if len(unfinished) > LONGEST_LINE:
        raise MalformedError(f"{unfinished[:80]!r} begins a line without an end")
