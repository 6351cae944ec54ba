"""A reader's knowledge of a node: the cooldown after a failure, and its support of CAS. Pure."""

from collections.abc import Callable
from typing import Any, Final

from invalidator.app.cache.commands import Command, Failure, Get, Held
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.nodes.protocol import Numbered
from invalidator.app.cache.nodes.routing import Token
from invalidator.runtime.logs import Log

#: Seconds for which a node that did not answer is skipped; then one reader tries it.
COOLDOWN_SECONDS: Final = 1.0

log = Log(__name__)


class Cooldown:
    """The time for which a failed node is skipped. The caller supplies the clock."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._until: float | None = None

    def is_on(self, now: float) -> bool:
        """Return True if the node is to be skipped now.

        Once the time is over, one caller is let through, and the others wait for its result.
        """
        if self._until is None:
            return False
        if now < self._until:
            return True
        self._until = now + COOLDOWN_SECONDS
        return False

    def begin(self, now: float, error: Exception) -> None:
        if self._until is None:
            log.warning("memcached does not answer: reads go to the source", node=self._label, error=repr(error))
        self._until = now + COOLDOWN_SECONDS

    def end(self) -> None:
        if self._until is not None:
            log.info("memcached answers again", node=self._label)
            self._until = None


class CasSupport:
    """The knowledge that a node runs without CAS numbers (``memcached -C``), where nothing can be filled safely.

    Such a node answers every `gets` with the number 0. Its items are read, but placeholders have no meaning on it.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._reported = False
        self.is_missing = False

    def check(self, number: bytes) -> bool:
        """Return True if `number` is a CAS number, and log once if it is not."""
        self.is_missing = not number.strip(b"0")
        if self.is_missing and not self._reported:
            self._reported = True
            log.error("memcached runs without CAS (-C): serving from the source, caching nothing", node=self._label)
        return not self.is_missing

    def may_have_changed(self) -> None:
        """Forget the answer: the node may have restarted with other options."""
        self.is_missing = False


class NodeState:
    """A reader's view of one node."""

    def __init__(self, label: str) -> None:
        self._cooldown = Cooldown(label)
        self._cas_support = CasSupport(label)
        #: True while there is nothing to consider: the other methods need not be called for a `get`.
        self.is_well = True

    def skips(self, kind: type[Command], now: float) -> bool:
        """Return True if the node is down, or cannot do anything useful with such a command."""
        return self._cooldown.is_on(now) or (self._cas_support.is_missing and kind is not Get)

    def failed(self, now: float, error: Exception) -> None:
        self._cas_support.may_have_changed()
        self._cooldown.begin(now, error)
        self.is_well = False

    def may_have_restarted(self) -> None:
        self._cas_support.may_have_changed()

    def answered(self) -> None:
        self._cooldown.end()
        self.is_well = not self._cas_support.is_missing

    def usable(self, answers: list[Any], hold: Callable[[bytes], Token]) -> list[Any]:
        """Return the answers for the reader. `hold` makes the token of a CAS number."""
        return [self._usable(answer, hold) for answer in answers]

    def _usable(self, answer: Any, hold: Callable[[bytes], Token]) -> Any:
        if isinstance(answer, Numbered):
            usable = self._cas_support.check(answer.number)
            self.is_well = self.is_well and usable
            return Held(answer.item, hold(answer.number)) if usable else Failure.DOWN
        if self._cas_support.is_missing and isinstance(answer, Item) and answer.flags == LEASE:
            return Failure.DOWN
        return answer
