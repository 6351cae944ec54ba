"""A fresh start in forked children.

A thread that holds a lock does not exist in a forked child, and nothing there releases the lock. So the child makes its
locks anew, with everything that they protect.
"""

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object with locks, connections or threads of its own."""

    def begin_in_child(self) -> None:
        """Replace locks and connections by new ones. No other thread is running."""


_ALL: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def begin_anew_after_fork(forkable: Forkable) -> None:
    """Call its `begin_in_child` in every child that is forked from now on."""
    _ALL.add(forkable)


def _begin_in_child() -> None:
    for forkable in list(_ALL):
        forkable.begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)
