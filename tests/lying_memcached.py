"""A memcached on loopback that lies: it answers some verbs with other bytes than memcached would."""

import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

STORAGE = re.compile(rb"(add|cas|set) (\S+) (\d+) (-?\d+) (\d+)(?: (\d*))?\r\n")
RETRIEVAL = re.compile(rb"(get|gets) ([^\r\n]+)\r\n")


class LyingMemcached:
    """A server in threads, with items that may be set and inspected directly."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, path: Path | None = None) -> None:
        """Listen on loopback, or at the ``path`` of a UNIX socket."""
        self._tls = tls
        self._path = path
        #: Verb -> the bytes that answer it, whatever is stored; None ends the connection.
        self.lies: dict[bytes, bytes | None] = {}
        self.items: dict[bytes, tuple[bytes, bytes, int]] = {}
        #: The number of times that this server waited for a request: its round trips.
        self.round_trips = 0
        #: The verbs received, in order.
        self.verbs: list[str] = []
        self.accepted: list[socket.socket] = []
        #: Called with each verb before it is executed.
        self.before: Callable[[str], None] = lambda verb: None
        self._last = 0
        where = (str(path), socket.AF_UNIX) if path else (("127.0.0.1", 0), socket.AF_INET)
        self._listener = socket.create_server(where[0], family=where[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return str(self._path or f"127.0.0.1:{self._listener.getsockname()[1]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # so that it accepts no further one
        self._listener.close()
        for connection in self.accepted:
            connection.close()

    def value(self, key: str) -> bytes | None:
        """Return the value under `key`, or None if there is none or a placeholder."""
        found = self.items.get(key.encode())
        return found[0] if found and found[1] == b"0" else None

    def put(self, key: str, value: bytes) -> None:
        self._store(key.encode(), value, b"0")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._tls:  # the first `recv` shakes hands
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            self.accepted.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        try:
            while piece := connection.recv(65536):
                self.round_trips += not received
                received += piece
                while done := self._execute(received):
                    received, answer = done
                    if answer is None:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    connection.sendall(answer)
        except OSError:
            pass

    def _execute(self, received: bytes) -> tuple[bytes, bytes | None] | None:
        if retrieval := RETRIEVAL.match(received):
            verb = retrieval[1]
            answer, rest = self._retrieve(verb, retrieval[2].split(b" ")), received[retrieval.end() :]
        elif storage := STORAGE.match(received):
            verb, end = storage[1], storage.end() + int(storage[5]) + 2
            if len(received) < end:
                return None
            value, rest = received[storage.end() : end - 2], received[end:]
            answer = self._storage(verb, storage[2], value, storage[3], int(storage[4]), storage[6])
        else:
            assert b"\r\n" not in received, f"{received!r} is no command that readers send"
            return None
        return rest, self.lies.get(verb, answer)

    def _retrieve(self, verb: bytes, keys: list[bytes]) -> bytes:
        self._received(verb)
        answer = b""
        for key in keys:
            if key in self.items:
                value, flags, number = self.items[key]
                numbered = b" %d" % number if verb == b"gets" else b""
                answer += b"VALUE %b %b %d%b\r\n%b\r\n" % (key, flags, len(value), numbered, value)
        return answer + b"END\r\n"

    def _storage(self, verb: bytes, key: bytes, value: bytes, flags: bytes, expire: int, number: bytes) -> bytes:
        self._received(verb)
        found = self.items.get(key)
        if verb == b"add" and found:
            return b"NOT_STORED\r\n"
        if verb == b"cas" and not found:
            return b"NOT_FOUND\r\n"
        if verb == b"cas" and found and found[2] != int(number):
            return b"EXISTS\r\n"
        if expire < 0:
            self.items.pop(key, None)
        else:
            self._store(key, value, flags)
        return b"STORED\r\n"

    def _received(self, verb: bytes) -> None:
        self.before(verb.decode())
        self.verbs.append(verb.decode())

    def _store(self, key: bytes, value: bytes, flags: bytes) -> None:
        self._last += 1
        self.items[key] = value, flags, self._last
