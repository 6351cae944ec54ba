"""Where a broker is and who we are to it: its addresses, in the order in which they are tried, and our name there."""

import os
import socket
import ssl

from yarl import URL

from invalidator.errors import ConfigurationError, UnreachableError
from invalidator.settings import BrokerSettings, split_address, tls_context


def urls(broker: BrokerSettings) -> list[URL]:
    """The broker's addresses with user, password and vhost."""
    url = URL(broker.url)
    if broker.password:
        url = url.with_password(broker.password.reveal())
    others = (split_address(address, default_port=url.port or 5672) for address in broker.alternates)
    return [url, *(url.with_host(host).with_port(port) for host, port in others)]


def tls(broker: BrokerSettings) -> ssl.SSLContext | None:
    """What amqps connections are made with. Files are read each time: a certificate is renewed without a restart.

    Raises:
        UnreachableError: a file cannot be read now; it could when the settings were loaded.
    """
    if not broker.url.startswith("amqps:"):
        return None
    try:
        return tls_context(broker, "broker")
    except ConfigurationError as error:
        raise UnreachableError(f"cannot connect to the broker: {error}") from error


def connection_name(role: str, cluster: str, doing: str = "") -> str:
    """What the management UI shows: ``invalidator worker eu @host [pid] consumes``."""
    return " ".join(filter(None, ("invalidator", role, cluster, f"@{socket.gethostname()}", f"[{os.getpid()}]", doing)))
