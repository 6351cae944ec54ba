"""Opens a connection to a node: socket, then TLS and a login where the settings ask for them. Only then come chunks.

dial ──> look up ──> connect ──> TLS ──> set … "user password" ──> exactly STORED ──> the connection's own protocol
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError
from invalidator.memcached.access import Access
from invalidator.memcached.failure import DialError, Failure
from invalidator.memcached.lookup import lookup
from invalidator.memcached.wire import refusal
from invalidator.settings import Address
from invalidator.settings.tls import tls_in_words

STORED: Final = b"STORED\r\n"


async def dial(address: Address, access: Access, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
    """Connect, and hand the connection to ``protocol`` once the node has accepted the login.

    Raises:
        DialError: there is no connection, or its TLS cannot be trusted.
        RefusedError: the node refuses user and password.
    """
    entrance = Entrance(access.login, protocol) if access.login else None
    try:
        transport = await _connect(address, access, lambda: entrance or protocol)
        if entrance:
            await entrance.accepted
        return transport
    except ConfigurationError as error:  # it was good when the settings were loaded
        raise DialError(str(error), Failure.TLS) from error
    except (OSError, UnicodeError) as error:
        if access.tls and (meaning := tls_in_words(error)):
            raise DialError(meaning, Failure.TLS) from error
        failure = Failure.CLOSED if isinstance(error, ConnectionResetError) else Failure.CONNECT
        raise DialError(str(error), failure) from error
    finally:
        if entrance:
            entrance.leave()


async def _connect(address: Address, access: Access, protocol: Callable[[], asyncio.BaseProtocol]) -> asyncio.Transport:
    """Connect to a node's socket, or to the first address of its one machine that answers."""
    loop = asyncio.get_running_loop()
    if address.path:
        return (await loop.create_unix_connection(protocol, address.path))[0]
    tls = access.tls() if access.tls else None
    name = (access.server_name or address.host) if tls else None
    errors: list[OSError] = []
    for ip in await lookup(address):
        try:
            transport, _ = await loop.create_connection(protocol, ip, address.port, ssl=tls, server_hostname=name)
        except OSError as error:
            errors.append(error)
        else:
            return transport
    raise errors[0]


class Entrance(asyncio.Protocol):
    """The protocol until the node has accepted the login; the real one takes over from the very next byte on."""

    def __init__(self, login: bytes, protocol: asyncio.BaseProtocol) -> None:
        self._login = login
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        #: Done when the connection has been handed over.
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._login)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer == STORED:
            assert self._transport
            self._transport.set_protocol(self._protocol)
            self._protocol.connection_made(self._transport)
            self.accepted.set_result(None)
        elif not STORED.startswith(self._answer):
            self._end(_refused(self._answer))

    def connection_lost(self, error: Exception | None) -> None:
        why = f": {error}" if error else ""
        self._end(ConnectionResetError(f"connection closed during login{why}"))

    def leave(self) -> None:
        """Give up: close the connection unless it has been handed over."""
        if self._transport and self._transport.get_protocol() is self:
            self._transport.abort()
        self.accepted.cancel()

    def _end(self, error: Exception) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(error)


def _refused(answer: bytes) -> InvalidatorError:
    said = f"it answers user and password with {answer[:60]!r}"
    if found := refusal(answer):
        failure, meaning = found
        return DialError(f"{said}: {meaning}", failure)
    return RefusedError(said)
