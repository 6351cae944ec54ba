"""The machine behind a node's name: exactly one, looked up for each connection and again while the connection lasts.

Rules of this file:

1. A name stands for one machine: one address, or one of IPv4 and one of IPv6. With several, each eviction would be
   confirmed by any one of them while the others keep the old value. So such a name is refused, and its keys are parked.
2. A name may move to another machine while the old one still answers. The connection follows within `LOOKUP_SECONDS`.
3. A name that cannot be resolved for a while changes nothing for a connection that works.
"""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from invalidator.memcached.failure import DialError, Failure
from invalidator.settings import Address

#: Seconds between two lookups of the name of a connected node.
LOOKUP_SECONDS = 5.0


class SeveralMachinesError(DialError):
    """Raised when a node's name has several addresses of one family."""


async def lookup(address: Address) -> list[str]:
    """Return the IP addresses of a node's machine.

    Raises:
        SeveralMachinesError: the name has several addresses of one family.
        DialError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is too long
        raise DialError(f'cannot resolve "{address.host}": {error}') from error
    return one_machine(address.host, found)


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


async def until_it_moves(address: Address, connected_to: str) -> str:
    """Return once the name no longer stands for the one machine ``connected_to``, and why."""
    while True:
        await asyncio.sleep(LOOKUP_SECONDS)
        try:
            addresses = await lookup(address)
        except SeveralMachinesError as error:
            return str(error)
        except DialError:
            continue  # rule 3
        if connected_to not in addresses:
            return f'"{address.host}" is {" and ".join(addresses)} now, no longer {connected_to}'
