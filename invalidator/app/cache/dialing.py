"""The socket to a node, not yet connected, and the one address of its name."""

import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

#: An entry of `socket.getaddrinfo`.
AddressInfo = tuple[Any, Any, int, str, Any]


class Target(NamedTuple):
    """An address to connect to, in the terms of the socket module."""

    family: int
    address: Any


class SeveralAddressesError(OSError):
    """Raised when a name has several addresses: the worker would evict on one node, and this reader fill another."""


def is_path(address: tuple[str, int]) -> bool:
    """Return True for a UNIX socket: the path in place of the host, and port 0."""
    return address[0].startswith("/")


def targets(host: str, found: Iterable[AddressInfo]) -> list[Target]:
    """Return the addresses of `host` that `getaddrinfo` found: one, or one of IPv6 and one of IPv4.

    Raises:
        SeveralAddressesError: there are several of one family.
    """
    distinct = list(dict.fromkeys(Target(family, address) for family, _, _, _, address in found))
    families = [target.family for target in distinct]
    if len(families) > len(set(families)):
        named = ", ".join(sorted(target.address[0] for target in distinct))
        raise SeveralAddressesError(f"{host} has several addresses ({named}): name each node by its own")
    return distinct


def new_socket(target: Target) -> socket.socket:
    made = socket.socket(target.family, socket.SOCK_STREAM)
    if target.family != socket.AF_UNIX:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def first_error(errors: Sequence[OSError]) -> OSError:
    return errors[0] if errors else OSError("the name has no address")
