"""The broker's addresses, tried in order until one answers, and the name under which we connect."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.settings import BrokerSettings, BrokerUrl, split_address
from invalidator.settings.tls import tls_context


def urls(broker: BrokerSettings) -> list[BrokerUrl]:
    """Return the broker's addresses with user, password and vhost."""
    url = BrokerUrl.parse(broker.url)
    url = url._replace(password=broker.password or url.password)
    others = (split_address(address, default_port=url.port) for address in broker.alternates)
    return [url, *(url._replace(host=host, port=port) for host, port in others)]


class Attempts:
    """The attempts to connect, one for each address, until the first that answers.

    ::

        attempts = Attempts()
        for url in urls(broker):
            with attempts.at(url):
                return open_connection(url)
        raise attempts.failure()
    """

    def __init__(self) -> None:
        self._failures: list[str] = []

    @contextmanager
    def at(self, url: BrokerUrl) -> Iterator[None]:
        """Record that an address does not answer, so that the next one is tried.

        Raises:
            RefusedError: the broker answered and said no, so that the others are not tried.
        """
        where = f"{url.host}:{url.port}"
        try:
            yield
        except UnreachableError as error:
            self._failures.append(f"{where}: {error}")
        except RefusedError as error:
            raise RefusedError(f'{where} refuses user "{url.user}": {error}') from error

    def failure(self) -> UnreachableError:
        """Return the error for when no address answered."""
        return UnreachableError(f"no broker answers: {'; '.join(self._failures)}")


def tls(broker: BrokerSettings) -> ssl.SSLContext | None:
    """Return the context for amqps, None for amqp. Its files are read each time, so a renewed certificate is used.

    Raises:
        UnreachableError: a file that was readable when the settings were loaded no longer is.
    """
    if not broker.url.startswith("amqps:"):
        return None
    try:
        return tls_context(broker, "broker")
    except ConfigurationError as error:
        raise UnreachableError(f"cannot connect to the broker: {error}") from error


def connection_name(role: str, cluster: str, doing: str = "") -> str:
    """Return the name that the management UI shows: ``invalidator worker eu @host [pid] consumes``."""
    return " ".join(filter(None, ("invalidator", role, cluster, f"@{socket.gethostname()}", f"[{os.getpid()}]", doing)))
