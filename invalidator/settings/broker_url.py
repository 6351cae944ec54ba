"""The URL of the broker, parsed here and nowhere else, because libraries read the same text differently.

``amqp://host/shop/eu`` is the vhost "shop/eu" for aio-pika and "shop" for pika, so events could be published where no
worker consumes. A URL with two readings is refused, with the spelling that has one.
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from invalidator.errors import ConfigurationError
from invalidator.settings.schema import Secret

PORTS = {"amqp": 5672, "amqps": 5671}
#: A vhost that was escaped twice, or that aiormq would take for one.
_ESCAPED = re.compile("%[0-9A-Fa-f]{2}")


class BrokerUrl(NamedTuple):
    """The parts of a broker's URL, none of them escaped."""

    scheme: str
    user: str
    password: Secret | None
    host: str
    port: int
    vhost: str
    query: str

    @classmethod
    def parse(cls, text: str, *, vhost: str | None = None) -> "BrokerUrl":
        """Return the parts of a URL; ``vhost`` replaces the one in it.

        Raises:
            ConfigurationError: it is not such a URL, or its vhost can be read in two ways; it never quotes a password.
        """
        try:
            parts = urlsplit(text)
            host, port, password = parts.hostname, parts.port, parts.password
        except ValueError:  # its text may contain a piece of the password
            host = None
        # An @ further right separates the host from a password that contains a /.
        if not host or parts.scheme not in PORTS or "@" in parts.path + parts.query + parts.fragment:
            raise ConfigurationError(
                'setting "broker.url" should read amqp://user@host:port/vhost (or amqps://); in a password, write '
                "@ as %40, / as %2F, # as %23, ? as %3F and % as %25"
            )
        if vhost is None:
            _refuse_two_readings(parts.path, parts.fragment)
        return cls(
            scheme=parts.scheme,
            user=unquote(parts.username or "guest"),
            password=Secret(unquote(password)) if password else None,
            host=host,
            port=port or PORTS[parts.scheme],
            vhost=_readable(unquote(parts.path[1:]) or "/" if vhost is None else vhost),
            query=parts.query,
        )

    def __str__(self) -> str:
        """Return the URL without the password, its vhost escaped."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = "/" if self.vhost == "/" else f"/{quote(self.vhost, safe='')}"
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{quote(self.user, safe='')}@{host}:{self.port}{path}{query}"


def _refuse_two_readings(path: str, fragment: str) -> None:
    if "/" in path[1:]:
        meant = f"/{path[1:].replace('/', '%2F')}"
        raise ConfigurationError(
            f'setting "broker.url" has a vhost that libraries read differently, "{path}": write "{meant}" '
            "if the / belongs to its name, else leave it out"
        )
    if fragment:
        raise ConfigurationError(
            f'setting "broker.url" has a # behind its vhost, "{path}#{fragment}": write it as %23, or leave it out'
        )


def _readable(vhost: str) -> str:
    if vhost in (".", ".."):  # yarl removes such a segment, escaped or not
        raise ConfigurationError(f'the vhost "{vhost}" cannot be written in a URL that every library reads: rename it')
    if _ESCAPED.search(vhost) or "\ufffd" in vhost:
        raise ConfigurationError(
            f'the vhost "{vhost}" is escaped twice, or not in UTF-8: write each character once, / as %2F and % as %25'
        )
    return vhost
