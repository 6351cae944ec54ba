"""The common base of `LookAsideCache` and its asyncio twin: everything but the waiting."""

import inspect
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Required, TypedDict

from invalidator.app.cache.audit.account import Account, Audited
from invalidator.app.cache.audit.hits import AuditSource, HitAudit, check_source
from invalidator.app.cache.commands import Failure, Load, Reading, ReadOutcome
from invalidator.app.cache.counting import COUNT
from invalidator.app.cache.freshness import Loaded, Source, as_loaded
from invalidator.app.cache.items import Item, Json, Serializer
from invalidator.app.cache.multi import Rounds, together
from invalidator.app.cache.reader import LONGEST_WAIT, Reader, Terms
from invalidator.memcached.access import Access, login_command
from invalidator.memcached.ring import Kind
from invalidator.runtime.logs import Log
from invalidator.settings.address import labelled

#: A template that is filled in with the arguments by name (``"product:{id}"``), or a function of the same arguments.
KeyOf = str | Callable[..., str]

log = Log(__name__)


class Options(TypedDict, total=False):
    """The options of both caches; see `LookAsideCache`."""

    ring: Kind
    prefix: str
    max_lag: float | None
    serializer: Serializer | None
    tls: ssl.SSLContext | None
    login: tuple[str, str] | None
    timeout: float
    patience: float
    longest_wait: float
    on_read: Callable[[str], object] | None
    audit: float
    audit_source: AuditSource | None


class Asked(TypedDict, total=False):
    """The options of every read; see `LookAsideCache.get_or_load`."""

    ttl: Required[float]
    negative_ttl: float | None
    stale_for: float


class LookAside:
    """Nodes, source, reader and counters."""

    #: Replaced in tests (`invalidator.testing`).
    nodes: Any
    _audit_type: type[HitAudit]

    def __init__(  # noqa: PLR0913  options, all of them
        self,
        nodes: Sequence[str] | Mapping[str, str],
        position: Callable[[], Any] | None,
        *,
        ring: Kind = "rendezvous",
        prefix: str = "",
        max_lag: float | None = None,
        serializer: Serializer | None = None,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        timeout: float = 0.5,
        patience: float = 0.5,
        longest_wait: float = LONGEST_WAIT,
        on_read: Callable[[str], object] | None = None,
        audit: float = 0.0,
        audit_source: AuditSource | None = None,
    ) -> None:
        self._addresses = labelled(dict(nodes) if isinstance(nodes, Mapping) else list(nodes))
        self._ring: Kind = ring
        self._prefix = prefix
        self._timeout = timeout
        self._access = Access((lambda: tls) if tls else None, login=login_command(*login) if login else b"")
        self._on_read = on_read
        self._ask_position = position
        source = Source(has_position=position is not None, max_lag=max_lag)
        self._reader = Reader(source, serializer or Json(), patience=patience, longest_wait=longest_wait)
        if audit:
            check_source(audit_source, is_primary=source.is_primary)
        self._audit = self._audit_type(audit, audit_source, serializer or Json(), lambda: self.nodes) if audit else None

    @property
    def audited(self) -> Audited:
        """The hits of this process that were compared with the source in the last day, if ``audit`` is set."""
        return (self._audit.account if self._audit else Account()).audited()

    def _hits(
        self, keys: Sequence[str], found: Sequence[Item | Failure | None], terms: Terms
    ) -> tuple[dict[str, Any], dict[str, Item | Failure | None]]:
        """Return the values of the hits, and the answers that the other keys got."""
        values: dict[str, Any] = {}
        others: dict[str, Item | Failure | None] = {}
        if all_hits := self._reader.all_hits(found, terms):
            values = dict(zip(keys, all_hits, strict=True))
        else:
            for key, answer in zip(keys, found, strict=True):
                if hit := self._reader.hit(key, answer, terms):
                    values[key] = hit.value
                else:
                    others[key] = answer
        count = COUNT[ReadOutcome.HIT]
        for _ in values:
            count()
        return values, others

    def _audit_some(
        self, hits: Collection[str], keys: Sequence[str], found: Sequence[Any], load: Callable[[str], Any]
    ) -> None:
        """Begin to compare those hits that are in the sample."""
        if self._audit:
            for key in self._audit.due(hits):
                self._audit.begin(key, found[keys.index(key)], partial(load, key))

    def _begin(self, keys: Sequence[str], terms: Terms) -> Rounds:
        return together([self._reader.read(key, terms) for key in keys])

    def _no_position(self, error: Exception) -> None:
        log.error("the primary's position is unknown; serving the loaded value without caching", error=repr(error))


def counted(readings: Sequence[Reading]) -> Sequence[Reading]:
    for reading in readings:
        COUNT[reading.outcome]()
    return readings


def value_of(reading: Reading, load: Callable[..., Any]) -> Any:
    """Return the value. Call ``load.shared``, if there is such a method, for a value of another reader's load.

    A near cache keeps only values that memcached returned, so it has to know.
    """
    if reading.outcome is ReadOutcome.SHARED and (shared := getattr(load, "shared", None)):
        shared()
    return reading.value


def answers(commands: Sequence[Load], found: Any) -> list[Loaded[Any]]:
    """Return an answer for each command, from the mapping that was loaded for all. A key that it lacks has no value."""
    loaded = as_loaded(found)
    return [Loaded(loaded.value.get(command.key), loaded.as_of) for command in commands]


def key_maker(key: KeyOf, function: Callable[..., Any]) -> Callable[..., str]:
    """Return a function that makes the key of a call of `function`."""
    if not isinstance(key, str):
        return key
    template, signature = key, inspect.signature(function)

    def make(*args: Any, **kwargs: Any) -> str:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return template.format_map(call.arguments)

    return make
