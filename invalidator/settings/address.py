"""Addresses as they are written in the settings, and the labels of nodes."""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

from invalidator.errors import ConfigurationError

#: The longest path that Linux binds a socket to.
SOCKET_PATH_BYTES = 107

_TCP = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]+))(?::(?P<port>\d{1,5}))?")


class Address(NamedTuple):
    """Host and port, or the path of a UNIX socket as the host with port 0."""

    host: str
    port: int

    @property
    def path(self) -> str | None:
        """The path of the UNIX socket, or None for TCP."""
        return self.host if self.host.startswith("/") else None

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def labelled(nodes: dict[str, str] | list[str]) -> dict[str, Address]:
    """Return label -> address of a ring's nodes, in the file's order.

    Nodes in a plain list are labelled as pymemcache's HashClient labels them: "host:port", port 11211 included, or the
    path of the socket.

    Raises:
        ConfigurationError: an address is invalid, or listed twice.
    """
    named: dict[str, Address] = {}
    for name, text in nodes.items() if isinstance(nodes, dict) else ((None, text) for text in nodes):
        address = node_address(text)
        if address in named.values():
            raise ConfigurationError(f'node "{text}" is listed twice')
        named[name or address.path or f"{address.host}:{address.port}"] = address
    return named


def node_address(text: str) -> Address:
    """Return the address of a node: "/path", "unix:/path", or as `split_address` reads it.

    Raises:
        ConfigurationError: the address has another form.
    """
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        return split_address(text, default_port=11211)
    if "\0" in path or len(path.encode()) > SOCKET_PATH_BYTES:
        raise ConfigurationError(f'"{path[:80]}" is not a path of a UNIX socket: it has 1 to {SOCKET_PATH_BYTES} bytes')
    return Address(path, 0)


def split_address(address: str, *, default_port: int) -> Address:
    """Return host and port of "host", "host:port" or "[::1]:port".

    Raises:
        ConfigurationError: the address has another form.
    """
    match = _TCP.fullmatch(address)
    port = int(match["port"] or default_port) if match else 0
    if not match or not 0 < port < 65536:
        shown = address.rpartition("@")[2]  # before the @ there may be a password
        fix = in_brackets(shown, default_port) or f"host:port, as in 127.0.0.1:{default_port}"
        raise ConfigurationError(f'"{shown}" is not an address: write {fix}')
    return Address(match["six"] or match["host"], port)


def in_brackets(text: str, default_port: int) -> str | None:
    """Return "[::1]:port" for an IPv6 address without brackets, with or without port; else None.

    A last group of four or more decimal digits is taken for the port: "::1:11211" can only mean that.
    """
    host, _, port = text.rpartition(":")
    if re.fullmatch(r"\d{4,5}", port) and _is_ipv6(host):
        return f"[{host}]:{port}"
    return f"[{text}]:{default_port}" if _is_ipv6(text) else None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
