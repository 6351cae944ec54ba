"""The socket to a node, not yet connected, and the addresses of its one machine."""

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from invalidator.memcached.host import one_machine

#: An entry of `socket.getaddrinfo`.
AddressInfo = tuple[Any, Any, int, str, Any]


class Target(NamedTuple):
    """An address to connect to, in the terms of the socket module."""

    family: int
    address: Any


def targets(host: str, found: Sequence[AddressInfo]) -> list[Target]:
    """Return the addresses of `host` that `getaddrinfo` found: one, or one of IPv6 and one of IPv4.

    Raises:
        SeveralMachinesError: the worker would evict on one machine, and this reader fill another.
    """
    one_machine(host, found)
    return list(dict.fromkeys(Target(family, address) for family, _, _, _, address in found))


def new_socket(target: Target) -> socket.socket:
    made = socket.socket(target.family, socket.SOCK_STREAM)
    if target.family != socket.AF_UNIX:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def first_error(errors: Sequence[OSError]) -> OSError:
    return errors[0] if errors else OSError("the name has no address")
