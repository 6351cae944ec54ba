"""The node that owns a key, exactly as the applications' client libraries choose it. Pure.

Rules of this file:

1. A ring hashes *labels*, never addresses: a node that moves to another address keeps its keys.
2. A ring hashes the key as the application names it, without the prefix: so does HashClient (its `_get_client` sees
   the bare key, the `Client` below it adds `key_prefix`), and so does libmemcached with its namespace
   (``MEMCACHED_CALLBACK_NAMESPACE``) unless ``hash_with_prefix_key`` is set. A prefix that an application writes into
   its keys by itself (pylibmc's ``set_multi(key_prefix=…)`` too) is part of the key.
3. HashClient must be given `str` keys: it formats a `bytes` key as ``b'…'`` and hashes that. Of a key that is not ASCII
   it hashes characters, the lowest byte of each, and stores the key as UTF-8 (``allow_unicode_keys``). libmemcached
   hashes the bytes that it stores.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from hashlib import md5
from math import floor
from struct import pack, unpack
from typing import Final, Literal, Protocol

from mmh3 import mmh3_32_uintdigest

from invalidator.errors import ConfigurationError

Kind = Literal["rendezvous", "ketama", "ketama-md5", "ketama-weighted"]


class Ring(Protocol):
    """The placement of keys by one client library."""

    @property
    def labels(self) -> Sequence[str]:
        """Return the labels of all its nodes."""

    def owner(self, key: bytes) -> str:
        """Return the label of the node that holds ``key``."""

    def owned(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        """Return the keys by the label of their owner."""


class Rendezvous:
    """The ring of pymemcache 4's HashClient: the highest murmur3 of ``<label>-<key>`` wins, or the greatest label.

    A label is the name that HashClient gives the server: ``host:port``, also for a ``(host, port)`` pair.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        # In falling order of labels the first of equal scores is the greatest label.
        self._first, *self._others = [(label, f"{label}-".encode()) for label in sorted(labels, reverse=True)]

    def owner(self, key: bytes) -> str:
        (owner,) = self.owned([key])
        return owner

    def owned(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        by_label: dict[str, list[bytes]] = {}
        for key in keys:
            winner, salt = self._first
            hashed = key if key.isascii() else _lowest_bytes(key)
            highest = mmh3_32_uintdigest(salt + hashed)
            for label, salt in self._others:
                score = mmh3_32_uintdigest(salt + hashed)
                if score > highest:
                    winner, highest = label, score
            try:
                by_label[winner].append(key)
            except KeyError:
                by_label[winner] = [key]
        return by_label


def _lowest_bytes(key: bytes) -> bytes:
    """Return what pymemcache's murmur3 hashes of a key that is not ASCII: the lowest byte of each character."""
    return bytes(ord(character) & 0xFF for character in key.decode(errors="replace"))


class Ketama:
    """The ring of libmemcached's consistent hashing (1.0.16 to 1.1), as pylibmc's behaviours choose it:

    =================  ======================================  ==========================================
    kind               pylibmc's ``behaviors``                 hash of keys and points; points a node
    =================  ======================================  ==========================================
    ``ketama``         ``{"ketama": True}``                    Jenkins' one-at-a-time; 100
    ``ketama-md5``     ``{"ketama": True, "hash": "md5"}``     MD5's first four bytes; 100
    ``ketama-weighted``  ``{"ketama_weighted": True}``         MD5, four points of each digest; 160
    =================  ======================================  ==========================================

    The last one is what most other libraries call ketama (libketama, PHP's, spymemcached's without its slash); here all
    nodes have the same weight. A label is ``host:port`` as the client was given it, and the host alone on port 11211:
    libmemcached leaves that port out of what it hashes. The order of labels matters only between equal points.
    """

    def __init__(self, labels: Sequence[str], kind: Kind = "ketama") -> None:
        self.labels = labels
        self._hash = _one_at_a_time if kind == "ketama" else _md5_first
        points = sorted(
            (point, index) for index, label in enumerate(labels) for point in self._points(label, kind, len(labels))
        )
        self._points_in_order = array("L", [point for point, _ in points])
        # One more than there are points: after the last point the circle begins again.
        self._owners = [labels[index] for _, index in points] + [labels[points[0][1]]]

    def owner(self, key: bytes) -> str:
        return self._owners[bisect_left(self._points_in_order, self._hash(key))]

    def owned(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        by_label: dict[str, list[bytes]] = {}
        for key in keys:
            by_label.setdefault(self.owner(key), []).append(key)
        return by_label

    def _points(self, label: str, kind: Kind, nodes: int) -> Iterable[int]:
        name = label.removesuffix(":11211")
        if kind != "ketama-weighted":
            return [self._hash(f"{name}-{index}".encode()) for index in range(100)]
        digests = (_md5(f"{name}-{index}".encode()) for index in range(_digests_a_node(nodes)))
        return [point for digest in digests for point in unpack("<4I", digest)]


RINGS: Final[tuple[Kind, ...]] = ("rendezvous", "ketama", "ketama-md5", "ketama-weighted")


def ring_of(kind: Kind, labels: Sequence[str]) -> Ring:
    """Return the ring of this kind over these labels.

    Raises:
        ConfigurationError: the kind is unknown, or there are no labels.
    """
    if kind not in RINGS:
        raise ConfigurationError(f'there is no ring "{kind}": choose one of {", ".join(RINGS)}')
    if not labels:
        raise ConfigurationError("a ring has at least one node: name it in ring.nodes")
    return Rendezvous(labels) if kind == "rendezvous" else Ketama(labels, kind)


def owners(rings: Sequence[Ring], keys: Collection[bytes]) -> dict[str, list[bytes]]:
    """Return the keys by the label of their owner in any of the rings; once where the rings agree."""
    current, *others = rings
    by_label = current.owned(keys)
    for ring in others:
        for label, part in ring.owned(keys).items():
            known = set(by_label.setdefault(label, []))
            by_label[label] += [key for key in part if key not in known]
    return by_label


def _one_at_a_time(data: bytes) -> int:
    """Compute Bob Jenkins' one-at-a-time, libmemcached's default hash, in 32 bits."""
    value = 0
    for byte in data:
        value = (value + byte) * 1025 & 0xFFFFFFFF
        value ^= value >> 6
    value = value * 9 & 0xFFFFFFFF
    value ^= value >> 11
    return value * 32769 & 0xFFFFFFFF


def _md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()


def _md5_first(data: bytes) -> int:
    return int.from_bytes(_md5(data)[:4], "little")


def _digests_a_node(nodes: int) -> int:
    """Return 40, or 39 for some numbers of nodes (25, 47, 50 …): libmemcached rounds a 32-bit float down."""
    share = _float32(_float32(_float32(1 / nodes) * 160) / 4)
    return floor(_float32(_float32(share * nodes) + 1e-10))


def _float32(number: float) -> float:
    narrowed: float = unpack("f", pack("f", number))[0]
    return narrowed
