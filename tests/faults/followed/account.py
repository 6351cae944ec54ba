"""The account of a run of the follower: each committed change against the events that came. Pure.

    committed = published + lost                   published - committed = phantoms
    by Django's ORM = events of its hooks + unhooked

The database itself keeps the list of changes: a trigger adds a row in the transaction of the change, so that what is
rolled back is not in it. The events of hooks do not say what was done, only to which row.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Change(NamedTuple):
    """One changed row. `number` was given to it by a sequence, so no two changes are alike."""

    op: str
    product: int
    number: int


@dataclass(frozen=True)
class Seen:
    """All that was seen in a run."""

    committed: Collection[Change]
    #: Message id -> the change that it stood for first.
    events: Mapping[str, Change]
    #: Events that came again.
    repeated: int
    #: Message ids that stood for two changes.
    renamed: int
    #: Events that came before a new read could see their change.
    early: int
    #: Products whose copy is older than their row.
    stale: Collection[int]
    gaps: int
    rolled_back: int
    #: The changes that Django's ORM committed.
    by_django: Collection[Change]
    #: Events of its hooks: message id -> product and number.
    hooked: Mapping[str, tuple[int, int]]


#: The type of the events that Django's hooks append.
HOOKED = "product_saved"
#: The columns that must be 0.
FAULTS = "lost", "phantom", "renamed", "early", "stale", "gaps", "unhooked", "hook_phantom"


@dataclass(frozen=True)
class Account:
    """The columns of the ledger; a run is green if those of `faults` are 0."""

    committed: int
    rolled_back: int
    repeated: int
    lost: int
    phantom: int
    renamed: int
    early: int
    stale: int
    gaps: int
    by_django: int
    unhooked: int
    hook_phantom: int

    @property
    def faults(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in FAULTS}

    @property
    def passes(self) -> bool:
        return not any(self.faults.values())


def account(seen: Seen) -> Account:
    committed, published = set(seen.committed), set(seen.events.values())
    by_django = Counter((change.product, change.number) for change in seen.by_django)
    hooked = Counter(seen.hooked.values())
    return Account(
        committed=len(committed),
        rolled_back=seen.rolled_back,
        repeated=seen.repeated,
        lost=len(committed - published),
        phantom=len(published - committed),
        renamed=seen.renamed,
        early=seen.early,
        stale=len(seen.stale),
        gaps=seen.gaps,
        by_django=by_django.total(),
        unhooked=(by_django - hooked).total(),
        hook_phantom=(hooked - by_django).total(),
    )
