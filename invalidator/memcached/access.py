"""How a node lets us in: TCP, then TLS, then a login, each where it is asked for; only then a chunk is sent.

dial ──> connect ──> TLS handshake ──> set … "user password" ──> exactly STORED ──> the connection's own protocol

Source of the login: memcached's doc/protocol.txt, "Authentication". A node that asks for none stores what it is sent,
so it is sent as expired already, under a key that is nobody's.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.memcached.wire import RESERVED_KEY
from invalidator.settings import MemcachedSettings, tls_context, tls_in_words

STORED: Final = b"STORED\r\n"


@dataclass(frozen=True)
class Access:
    """What it takes to be let in; by default nothing."""

    #: Asked for every connection: a certificate is renewed without a restart.
    tls: Callable[[], ssl.SSLContext] | None = None
    #: Whom the certificate must be for, if not the host of the address.
    server_name: str | None = None
    #: The whole command that logs in.
    login: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, memcached: MemcachedSettings) -> "Access":
        tls, login = partial(tls_context, memcached, "memcached") if memcached.tls else None, b""
        if memcached.user and memcached.password:
            login = login_command(memcached.user, memcached.password.reveal())
        return cls(tls, memcached.tls_server_name, login)


def login_command(user: str, password: str) -> bytes:
    told = f"{user} {password}".encode()
    return b"set %b 0 -1 %d\r\n%b\r\n" % (RESERVED_KEY, len(told), told)


async def dial(address: tuple[str, int], access: Access, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
    """Connect, and hand the connection to ``protocol`` once we are let in.

    Raises:
        UnreachableError: no connection, or no TLS that can be trusted.
        RefusedError: the node does not take user and password.
    """
    entrance = Entrance(access.login, protocol) if access.login else None
    name = access.server_name if access.tls else None
    loop = asyncio.get_running_loop()
    try:
        tls = access.tls() if access.tls else None
        transport, _ = await loop.create_connection(
            lambda: entrance or protocol, *address, ssl=tls, server_hostname=name
        )
        if entrance:
            await entrance.passed
        return transport
    except ConfigurationError as error:  # it was good when the settings were loaded
        raise UnreachableError(str(error)) from error
    except (OSError, UnicodeError) as error:
        raise UnreachableError((access.tls and tls_in_words(error)) or str(error)) from error
    finally:
        if entrance:
            entrance.leave()


class Entrance(asyncio.Protocol):
    """Speaks to the node until it has let us in; then the real protocol does, from the very next byte on."""

    def __init__(self, login: bytes, protocol: asyncio.BaseProtocol) -> None:
        self._login = login
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        #: Done when the connection is the protocol's.
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._login)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer == STORED:
            assert self._transport
            self._transport.set_protocol(self._protocol)
            self._protocol.connection_made(self._transport)
            self.passed.set_result(None)
        elif not STORED.startswith(self._answer):
            self._end(RefusedError(f"it answers user and password with {self._answer[:60]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._end(ConnectionResetError(f"connection closed during the login: {error or 'without a word'}"))

    def leave(self) -> None:
        """Nobody waits any more: what did not let us in by now is closed."""
        if self._transport and self._transport.get_protocol() is self:
            self._transport.abort()
        self.passed.cancel()

    def _end(self, error: Exception) -> None:
        if not self.passed.done():
            self.passed.set_exception(error)
