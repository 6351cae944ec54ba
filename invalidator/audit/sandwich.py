"""The sandwich: proof that a value was stale at the very moment when its source was read.

    gets on every node ──> a new read of the source ──> gets on the nodes that had a value, on the same connections

Rules of this file, each a guard against a false alarm. A value is stale only if

1. both gets found the same item: one CAS number, on one connection, so the node did not restart in between. It was
   there while the source was read, whatever else went on.
2. its content is not the source's. An item that cannot be read is not stale, and neither is a reader's placeholder.
3. the source gave the same content at the change's first read. Else the value may be younger than the change that is
   checked, and only its own time has not come yet.
4. no further event of the key came, and the feed was never lost (`invalidator.audit.tracker` holds this one): a price
   that goes to and fro gives the same content twice.

A node without a value costs no read of the source. The commands are classic `gets`: `mg` on a stale item would change
what readers see.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from invalidator.app.cache.items import LEASE, Item
from invalidator.audit.truth import Truth
from invalidator.audit.verdict import Verdict


class Sighting(NamedTuple):
    """A key's item on one node, as one `gets` found it."""

    item: Item
    #: The CAS number.
    number: bytes
    #: The connection that it was read on: a number that no other connection of this process has.
    connection: int

    @property
    def is_placeholder(self) -> bool:
        return self.item.flags == LEASE

    def is_same_as(self, other: "Answer") -> bool:
        """Return True if nothing was stored under the key between the two."""
        return self == other and bool(self.number.strip(b"0"))  # with memcached -C every number is 0


class Unseen(NamedTuple):
    """The reason why a node gave no answer."""

    reason: str


#: A node's answer about a key; None if it has no such item.
Answer = Sighting | Unseen | None


class Nodes(Protocol):
    """The nodes of a cluster."""

    async def gets(self, key: str, labels: Collection[str] | None = None) -> Mapping[str, Answer]:
        """Ask the nodes with these labels, by default all of them. Never raises."""


class Judged(NamedTuple):
    """The verdict on a key on one node."""

    verdict: Verdict
    #: The stale item, to repair it.
    sighting: Sighting | None = None


async def sandwich(
    nodes: Nodes, key: str, read: Callable[[], Awaitable[Truth | None]], first: Truth
) -> dict[str, Judged]:
    """Return the verdict on a key for each node; `read` returns None if the source does not answer."""
    before = await nodes.gets(key)
    valued = [label for label, answer in before.items() if isinstance(answer, Sighting) and not answer.is_placeholder]
    if not valued:
        return {label: Judged(judge(answer, None, None, first)) for label, answer in before.items()}
    truth = await read()
    after = {**before, **await nodes.gets(key, valued)}
    found = {label: judge(answer, truth, after[label], first) for label, answer in before.items()}
    return {label: Judged(verdict, _stale(verdict, after[label])) for label, verdict in found.items()}


def judge(before: Answer, truth: Truth | None, after: Answer, first: Truth) -> Verdict:
    """Return the verdict on one node. A stale value is late until nothing can be on its way any more."""
    if before is None:
        return Verdict.ABSENT
    if isinstance(before, Sighting) and before.is_placeholder:
        return Verdict.FILLING
    if isinstance(before, Unseen) or isinstance(after, Unseen) or truth is None:
        return Verdict.UNCHECKED
    if is_equal := truth.equals(before.item):
        return Verdict.FRESH
    is_proven = is_equal is False and before.is_same_as(after) and truth == first
    return Verdict.LATE if is_proven else Verdict.UNCLEAR


def _stale(verdict: Verdict, after: Answer) -> Sighting | None:
    return after if verdict.is_stale and isinstance(after, Sighting) else None
