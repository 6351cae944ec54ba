"""TLS and the login that nodes ask of a connection before anything else.

Source of the login: memcached's doc/protocol.txt, "Authentication". A node that requires no login stores the item that
logs in. So the item is sent as expired already, under a key that no application uses.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from invalidator.memcached.wire import RESERVED_KEY
from invalidator.settings import MemcachedSettings

if TYPE_CHECKING:  # loads OpenSSL, and most nodes speak no TLS
    from ssl import SSLContext


@dataclass(frozen=True)
class Access:
    """The TLS settings and the login that nodes require; by default neither."""

    #: Called for every connection, so that a certificate is renewed without a restart.
    tls: "Callable[[], SSLContext] | None" = None
    #: The name that the certificate must be for, if it is not the host of the address.
    server_name: str | None = None
    #: The complete command that logs in.
    login: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, memcached: MemcachedSettings) -> "Access":
        tls, login = _tls(memcached) if memcached.tls else None, b""
        if memcached.user and memcached.password:
            login = login_command(memcached.user, memcached.password.reveal())
        return cls(tls, memcached.tls_server_name, login)

    def in_words(self, error: Exception) -> str:
        """Return why a connection failed."""
        if self.tls is None:
            return str(error)
        from invalidator.settings.tls import tls_in_words  # noqa: PLC0415  loads OpenSSL

        return tls_in_words(error) or str(error)


def login_command(user: str, password: str) -> bytes:
    credentials = f"{user} {password}".encode()
    return b"set %b 0 -1 %d\r\n%b\r\n" % (RESERVED_KEY, len(credentials), credentials)


def _tls(memcached: MemcachedSettings) -> "Callable[[], SSLContext]":
    from invalidator.settings.tls import tls_context  # noqa: PLC0415  loads OpenSSL

    return partial(tls_context, memcached, "memcached")
