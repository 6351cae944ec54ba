"""memcached's text protocol, as far as readers use it. Pure: it turns commands into bytes, and bytes into answers.

    commands of one kind ──request──> bytes         bytes ──Reply.feed──> answers, in the order of the commands

Rules of this file:

1. The command decides the verb, never its data.
2. An answer has exactly the form that its commands ask for. Anything else raises `MalformedError`: another key, a
   `gets` without exactly one number, a size that is no number, a value without its end, bytes after the end.
3. SERVER_ERROR refuses one command. Other error lines raise `ErrorReply`: memcached may read the value as a command.

Source: memcached's doc/protocol.txt, "Storage commands", "Retrieval command" and "Error strings".
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets
from invalidator.app.cache.items import Item

#: Larger than any item that memcached stores, and than any line.
LONGEST_VALUE: Final = 1 << 30
LONGEST_LINE: Final = 2048
#: Flags are 32 bits wide, CAS numbers 64.
MOST_FLAGS: Final = (1 << 32) - 1
MOST_DIGITS: Final = 20

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

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. Return True if the reply is complete.

        Raises:
            MalformedError: the bytes do not answer the commands.
            ErrorReply: memcached ended the exchange with an error.
        """


def request(commands: Sequence[Any], prefix: bytes) -> tuple[bytes, Reply]:
    """Return the bytes that send commands of one kind, and the reply to feed with the answer."""
    kind = type(commands[0])
    if kind is Get or kind is Gets:
        keys = [prefix + command.key.encode() for command in commands]
        verb = b"get " if kind is Get else b"gets "
        return verb + b" ".join(keys) + b"\r\n", Retrieval(keys, numbered=kind is Gets)
    block = _add if kind is Add else _cas
    return b"".join([block(command, prefix) for command in commands]), Storage(_ANSWERS[kind], len(commands))


def refused(reply: Reply, commands: Sequence[Any]) -> list[Any]:
    """Return the answers of a reply that ended with an error line: those before it, and refusals."""
    return reply.answers + [Failure.REFUSED] * (len(commands) - len(reply.answers))


def login_reply() -> Reply:
    """Return the reply to the command that logs in."""
    return Storage({b"STORED": True}, 1)


def _add(command: Add, prefix: bytes) -> bytes:
    data, flags = command.item
    return b"add %b%b %d %d %d\r\n%b\r\n" % (prefix, command.key.encode(), flags, command.expire, len(data), data)


def _cas(command: Cas, prefix: bytes) -> bytes:
    data, flags = command.item
    number: bytes = command.token.number
    assert number.isdigit()
    return b"cas %b%b %d %d %d %b\r\n%b\r\n" % (
        prefix, command.key.encode(), flags, command.expire, len(data), number, data,
    )  # fmt: skip


def only_item(data: bytes, key: bytes) -> Item | None:
    """Return the item if `data` is exactly the answer to a `get` of one key that is there; else None.

    This is what `Retrieval` finds too, for the most frequent answer of all.
    """
    end = data.find(b"\r\n")
    fields = data[:end].split(b" ")
    if len(fields) != 4 or fields[0] != b"VALUE" or fields[1] != key or not data.endswith(b"\r\nEND\r\n"):
        return None
    _, _, flags, size = fields
    if not (_is_number(flags) and _is_number(size)) or int(size) != len(data) - end - 9 or int(flags) > MOST_FLAGS:
        return None
    return Item(data[end + 2 : -7], int(flags))


class Retrieval:
    """The reply to one `get` or `gets` of several keys."""

    def __init__(self, keys: Sequence[bytes], *, numbered: bool) -> None:
        self._keys = keys
        self._wanted = set(keys)
        self._fields = 5 if numbered else 4
        self._found: dict[bytes, Any] = {}
        self._rest = b""
        self.answers: list[Any] = []

    def feed(self, data: bytes) -> bool:
        data = self._rest + data if self._rest else data
        start = 0
        while (end := data.find(b"\r\n", start)) >= 0:
            line = data[start:end]
            if line == b"END":
                return self._complete(data[end + 2 :])
            fields = line.split(b" ")
            if len(fields) != self._fields or fields[0] != b"VALUE" or not all(map(_is_number, fields[2:])):
                _raise_error(line)
                raise MalformedError(f"{line[:80]!r} does not answer a get")
            key, flags, size = fields[1], int(fields[2]), int(fields[3])
            if key not in self._wanted or flags > MOST_FLAGS or size > LONGEST_VALUE:
                raise MalformedError(f"{line[:80]!r} names another key, or a number out of range")
            start_of_next = end + size + 4
            if start_of_next > len(data):
                break
            if data[start_of_next - 2 : start_of_next] != b"\r\n":
                raise MalformedError(f"the value of {line[:80]!r} is longer than it says")
            item = Item(data[end + 2 : start_of_next - 2], flags)
            self._wanted.discard(key)
            self._found[key] = item if self._fields == 4 else Numbered(item, fields[4])
            start = start_of_next
        else:
            _check_line(data[start:])
        self._rest = data[start:]
        return False

    def _complete(self, excess: bytes) -> bool:
        if excess:
            raise MalformedError(f"{excess[:80]!r} follows the end of the answer")
        self.answers = list(map(self._found.get, self._keys))
        return True


class Storage:
    """The reply to one or more commands that store."""

    def __init__(self, legal: dict[bytes, bool], count: int) -> None:
        self._legal = legal
        self._count = count
        self._rest = b""
        self.answers: list[Any] = []

    def feed(self, data: bytes) -> bool:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            self.answers.append(self._answer(line))
        if len(self.answers) > self._count or (len(self.answers) == self._count and self._rest):
            raise MalformedError(f"{data[-80:]!r} has more than the answers asked for")
        _check_line(self._rest)
        return len(self.answers) == self._count

    def _answer(self, line: bytes) -> bool | Failure:
        if line in self._legal:
            return self._legal[line]
        if line.startswith(b"SERVER_ERROR"):
            return Failure.REFUSED
        _raise_error(line)
        raise MalformedError(f"{line[:80]!r} does not answer a command that stores")


def _is_number(field: bytes) -> bool:
    return field.isdigit() and len(field) <= MOST_DIGITS


def _raise_error(line: bytes) -> None:
    if line == b"ERROR" or line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR")):
        raise ErrorReply(line.decode(errors="replace"))


def _check_line(unfinished: bytes) -> None:
    if len(unfinished) > LONGEST_LINE:
        raise MalformedError(f"{unfinished[:80]!r} begins a line without an end")
