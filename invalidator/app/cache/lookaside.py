"""`LookAsideCache`: values from memcached, or from the source and then stored, so that no stale value comes back.

The steps and the reasons for them are in `invalidator.app.cache.reader`. This module drives them with threads and
sockets, `invalidator.app.cache.async_lookaside` with asyncio. A hit needs one command. From there on a single key is
a batch of one.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from invalidator.app.cache.audit.thread import AuditThread
from invalidator.app.cache.base import (
    Asked,
    KeyOf,
    LookAside,
    Options,
    answers,
    counted,
    key_maker,
    value_of,
)
from invalidator.app.cache.commands import Failure, Join, Load, Position, Reading, Wait
from invalidator.app.cache.counting import COUNT
from invalidator.app.cache.freshness import Loaded, as_loaded
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.blocking_nodes import BlockingNodes
from invalidator.app.cache.reader import Terms, terms_of

T = TypeVar("T")
P = ParamSpec("P")


class LookAsideCache(LookAside):
    """A cache that reads through memcached, for any number of threads.

    A hit costs one command. Of the readers that miss, one loads and fills (four commands). The others wait for it:
    those of this process for as long as the load takes, those of other processes until they run out of patience. A
    value that was evicted while it was being loaded is served and not stored. While memcached is down everything is
    loaded: no read fails that `load` can answer.

    Args:
        nodes: ``"host:port"`` or ``"/path"`` of a UNIX socket for each node, as for HashClient; or label -> address,
            as in the worker's ``[ring]``. A name has to stand for one node, so not for several addresses.
        position: for loads from replicas: asks the *primary* for its position, a number. `load` then returns `Loaded`
            with its `as_of`. A value without one, or from too far behind, is served and not stored.
        max_lag: for loads from replicas that have no `as_of`: the seconds by which they lag, at most. Values loaded
            within that time of a miss are served and not stored. With neither, `load` reads from the primary.
        ring, prefix: as the worker's ``ring.kind`` and ``memcached.prefix``. Other clients must use `str` keys with
            HashClient (and ``allow_unicode_keys`` for keys that are not ASCII): it places a `bytes` key by its text
            ``b'…'``, on another node.
        serializer: converts values to bytes and back; `Json` by default, `Typed` for dataclasses, decimals, dates and
            bytes. A value that would come back changed is served and not cached.
        tls, login: for nodes that use TLS, and for nodes that require a user and a password.
        timeout: seconds for a node to accept a connection, and for each piece of an answer.
        patience: seconds to wait for a value that another process loads. Best a little longer than most loads take.
        longest_wait: seconds to wait for a load of the same key in this process. Its readers share one load, and its
            error; each gets a value of its own.
        on_read: called with every key that is read, for example `Reads.count`.
        audit: share of the hits that are compared with the source once they are answered, 0.001 for one of a thousand:
            see `audited`. `load` is called again for them, in a thread of its own.
        audit_source: called with a key, returns the function to call instead of `load`, or None. It is needed if
            `load` uses what belongs to its caller, such as a session, or reads from replicas.

    `load` must begin a new read. A transaction that was already open cannot see values that were evicted since.

    >>> cache = LookAsideCache(["127.0.0.1:11211"])
    >>> cache.get_or_load("product:1", lambda: {"price": 109.99}, ttl=3600)
    {'price': 109.99}
    >>> cache.get_or_load("product:1", lambda: {"price": "not loaded again"}, ttl=3600)
    {'price': 109.99}

    Raises:
        ConfigurationError: no nodes given, an invalid address or prefix, or an unknown ring kind.
    """

    nodes: BlockingNodes
    _audit_type = AuditThread

    def __init__(
        self,
        nodes: Sequence[str] | Mapping[str, str],
        *,
        position: Callable[[], float] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(nodes, position, **options)
        self.nodes = BlockingNodes(
            self._addresses, ring=self._ring, prefix=self._prefix, timeout=self._timeout, access=self._access
        )

    @overload
    def get_or_load(self, key: str, load: Callable[[], Loaded[T]], **asked: Unpack[Asked]) -> T: ...
    @overload
    def get_or_load(self, key: str, load: Callable[[], T], **asked: Unpack[Asked]) -> T: ...
    def get_or_load(self, key: str, load: Callable[[], Any], **asked: Unpack[Asked]) -> Any:
        """Return the value of `key`, from `load` if it is not cached.

        Args:
            key: sent as UTF-8, at most 250 bytes with the prefix, no spaces and no control characters. Any other key
                is never cached, because no worker could evict it.
            load: reads the source, and returns the value or `Loaded`. None means that there is no such thing, and is
                cached too.
            ttl: seconds, at most 30 days. The value lives up to a tenth less, so that values filled together do not
                expire together.
            negative_ttl: the TTL of None, if it differs; with 0 None is not cached.
            stale_for: seconds. While another reader loads, a value that this process saw within that time is returned
                instead of waiting. The process keeps up to 10,000 values for this, of 64 MiB in all.

        Raises:
            ConfigurationError: `ttl` is not positive.
            Exception: an error that `load` raises.
        """
        terms = terms_of(**asked)
        if self._on_read:
            self._on_read(key)
        found = self.nodes.get(key)
        if hit := self._reader.hit(key, found, terms):
            COUNT[hit.outcome]()
            if self._audit and next(self._audit.ticks, True):
                self._audit.draw()
                self._audit.begin(key, found, load)
            return hit.value
        (reading,) = self._run([key], terms, lambda _: [as_loaded(load())], [found])
        return value_of(reading, load)

    @overload
    def get_many_or_load(
        self, keys: Iterable[str], load: Callable[[list[str]], Loaded[Mapping[str, T]]], **asked: Unpack[Asked]
    ) -> dict[str, T | None]: ...
    @overload
    def get_many_or_load(
        self, keys: Iterable[str], load: Callable[[list[str]], Mapping[str, T]], **asked: Unpack[Asked]
    ) -> dict[str, T | None]: ...
    def get_many_or_load(
        self, keys: Iterable[str], load: Callable[[list[str]], Any], **asked: Unpack[Asked]
    ) -> dict[str, Any]:
        """Return the values of many keys. `load` is called with the keys to be loaded, in most cases once.

        A key that `load` leaves out does not exist, and gets the value None. Otherwise as `get_or_load`.
        In a `Loaded`, `as_of` is the position of the *oldest* of its reads: it has to hold for every key.

        >>> cache = LookAsideCache(["127.0.0.1:11211"])
        >>> cache.get_many_or_load(["user:1", "user:2"], lambda keys: {key: key.upper() for key in keys}, ttl=60)
        {'user:1': 'USER:1', 'user:2': 'USER:2'}
        """

        def loaded(loads: Sequence[Load]) -> list[Loaded[Any]]:
            return answers(loads, load([command.key for command in loads]))

        def loaded_one(key: str) -> Loaded[Any]:
            return loaded([Load(key)])[0]

        wanted = list(dict.fromkeys(keys))
        if self._on_read:
            for key in wanted:
                self._on_read(key)
        terms = terms_of(**asked)
        found = self.nodes.get_many(wanted)
        values, others = self._hits(wanted, found, terms)
        self._audit_some(values, wanted, found, loaded_one)
        if not others:
            return values
        readings = self._run(list(others), terms, loaded, list(others.values()))
        values |= {key: reading.value for key, reading in zip(others, readings, strict=True)}
        return {key: values[key] for key in wanted}

    def cached(self, key: KeyOf, **asked: Unpack[Asked]) -> "Decorator":
        """Return a decorator. The function becomes the `load` of `get_or_load`, and its arguments make the key.

        >>> cache = LookAsideCache(["127.0.0.1:11211"])
        >>> @cache.cached("price:{id}", ttl=60)
        ... def price(id: str) -> float:
        ...     return 109.99
        >>> price("abc-123")
        109.99
        """

        def decorate(function: Callable[P, Any]) -> Callable[P, Any]:
            key_of = key_maker(key, function)

            @functools.wraps(function)
            def read(*args: P.args, **kwargs: P.kwargs) -> Any:
                return self.get_or_load(key_of(*args, **kwargs), lambda: function(*args, **kwargs), **asked)

            return read

        return decorate

    def close(self) -> None:
        """Close the idle connections; a later read opens new ones."""
        self.nodes.close()
        if self._audit:
            self._audit.close()

    def _run(
        self,
        keys: Sequence[str],
        terms: Terms,
        load: Callable[[Sequence[Load]], list[Loaded[Any]]],
        found: Sequence[Item | Failure | None],
    ) -> Sequence[Reading]:
        rounds = self._begin(keys, terms)
        try:
            next(rounds)  # asks for what was found
            commands = rounds.send(found)
            while True:
                try:
                    answer = load(commands) if isinstance(commands[0], Load) else self._answer(commands)
                except BaseException as error:  # noqa: BLE001  raised again once the placeholders are released
                    commands = rounds.throw(error)
                else:
                    commands = rounds.send(answer)
        except StopIteration as end:
            return counted(end.value)

    def _answer(self, commands: Sequence[Any]) -> Sequence[Any]:
        match commands[0]:
            case Position():
                return [self._position()] * len(commands)
            case Wait():
                time.sleep(max(command.seconds for command in commands))
                return [None] * len(commands)
            case Join():
                wait([command.ended for command in commands], max(command.seconds for command in commands))
                return [None] * len(commands)
            case _:
                return self.nodes.answer(commands)

    def _position(self) -> float | None:
        assert self._ask_position
        try:
            return float(self._ask_position())
        except Exception as error:  # noqa: BLE001  a read that the source can answer must not fail
            self._no_position(error)
            return None


class Decorator(Protocol):
    """The type of `LookAsideCache.cached`."""

    @overload
    def __call__(self, function: Callable[P, Loaded[T]], /) -> Callable[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]: ...
