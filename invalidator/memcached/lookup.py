"""Looks up the machine behind a node's name, for each connection and again while the connection lasts.

Rules of this file, beside that of `host`:

1. A name may move to another machine while the old one still answers. The connection follows within `LOOKUP_SECONDS`.
2. A name that cannot be resolved for a while changes nothing for a connection that works.
"""

import asyncio
import socket

from invalidator.memcached.failure import DialError
from invalidator.memcached.host import LOOKUP_SECONDS, SeveralMachinesError, one_machine
from invalidator.settings import Address


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


async def until_it_moves(address: Address, connected_to: str) -> str:
    """Return once the name no longer stands for the one machine ``connected_to``, and why."""
    while True:
        await asyncio.sleep(LOOKUP_SECONDS)
        try:
            addresses = await lookup(address)
        except SeveralMachinesError as error:
            return str(error)
        except DialError:
            continue  # rule 2
        if connected_to not in addresses:
            return f'"{address.host}" is {" and ".join(addresses)} now, no longer {connected_to}'
