"""Where a broker is and who we are to it: its addresses, in the order in which they are tried, and our name there."""

import os
import socket

from yarl import URL

from invalidator.settings import BrokerSettings, split_address


def urls(broker: BrokerSettings) -> list[URL]:
    """The broker's addresses with user, password and vhost."""
    url = URL(broker.url)
    if broker.password:
        url = url.with_password(broker.password.reveal())
    others = (split_address(address, default_port=url.port or 5672) for address in broker.alternates)
    return [url, *(url.with_host(host).with_port(port) for host, port in others)]


def connection_name(role: str, cluster: str, doing: str = "") -> str:
    """What the management UI shows: ``invalidator worker eu @host [pid] consumes``."""
    return " ".join(filter(None, ("invalidator", role, cluster, f"@{socket.gethostname()}", f"[{os.getpid()}]", doing)))
