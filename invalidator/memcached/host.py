"""The machine behind a node's name: exactly one. Pure.

Rule of this file: a name stands for one machine, which is one address, or one of IPv4 and one of IPv6. With several,
each eviction would be confirmed by any one of them while the others keep the old value. So such a name is refused, and
its keys are parked.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from invalidator.memcached.failure import DialError, Failure
from invalidator.settings import Address

#: Seconds between two lookups of the name of a connected node.
LOOKUP_SECONDS = 5.0


class SeveralMachinesError(DialError):
    """Raised when a node's name has several addresses of one family."""


def one_machine(host: str, found: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the addresses in the result of getaddrinfo, in its order; raise as `lookup`."""
    families = dict.fromkeys((info[0], str(info[4][0])) for info in found)
    addresses = [address for _, address in families]
    if len({family for family, _ in families}) < len(addresses):
        raise SeveralMachinesError(
            f'"{host}" has several addresses ({", ".join(addresses)}): name each node by its own',
            Failure.SEVERAL_MACHINES,
        )
    return addresses


def is_name(address: Address) -> bool:
    """Return True if the address must be looked up: not for an IP address, nor for a UNIX socket."""
    if address.path:
        return False
    try:
        ip_address(address.host)
    except ValueError:
        return True
    return False
