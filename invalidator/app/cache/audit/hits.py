"""The hits of the sample, from the answer to the comparison: the common base of a thread's and an event loop's.

Rules of this file:

1. A hit is compared after it was answered, and nothing here raises into the read.
2. At most `LIMIT` hits are under way. Those that come meanwhile are undecided: a source that hangs holds up no reader.
3. Each hit of the sample is counted once, with its outcome; one whose key the source does not know is not counted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from invalidator.app.cache.audit.account import Account
from invalidator.app.cache.audit.comparison import AuditOutcome, Comparison, Steps
from invalidator.app.cache.audit.sampling import Sampling
from invalidator.app.cache.commands import Failure
from invalidator.app.cache.items import Item, Serializer
from invalidator.errors import ConfigurationError

#: Hits under way at a time.
LIMIT = 100

#: Reads the source: the value, or `Loaded`; for an event loop an awaitable of it.
Read = Callable[[], Any]
#: Returns the function that reads a key's value from the primary, or None if the key is not compared. Must not block.
AuditSource = Callable[[str], Read | None]


class Hit(NamedTuple):
    """A hit that is being compared."""

    key: str
    steps: Steps
    read: Read


class HitAudit(Sampling, ABC):
    """The sample of one cache, and its account."""

    def __init__(
        self, share: float, source: AuditSource | None, serializer: Serializer, nodes: Callable[[], Any]
    ) -> None:
        """Take the cache's share, source and serializer; `nodes` returns its nodes."""
        super().__init__(share)
        self._source = source
        self._nodes = nodes
        #: Replaced in tests, which wait less.
        self.comparison = Comparison(serializer)
        self.account = Account()

    def begin(self, key: str, served: Item | Failure | None, load: Read) -> None:
        """Compare a hit of the sample later. Never raises."""
        assert isinstance(served, Item), "only an item is a hit"
        try:
            read = self._source(key) if self._source else load
            if read is None:
                return
            if self._is_full():
                self.account.count(key, AuditOutcome.UNDECIDED)
            else:
                self._start(Hit(key, self.comparison.steps(key, served), read))
        except Exception as error:  # noqa: BLE001  the application's source, or no thread could be started
            self.account.failed(key, error)

    @abstractmethod
    def close(self) -> None:
        """Give up the hits that are under way."""

    @abstractmethod
    def _is_full(self) -> bool: ...

    @abstractmethod
    def _start(self, hit: Hit) -> None: ...


def check_source(source: AuditSource | None, *, is_primary: bool) -> None:
    """Raise `ConfigurationError` if the hits of a cache cannot be compared with its own loads."""
    if source is None and not is_primary:
        raise ConfigurationError(
            "audit: with position or max_lag, load reads from replicas, which may be behind the cache: "
            "pass audit_source, which reads from the primary"
        )
