"""`LookAsideCache`: values from memcached, or from the source and then kept, never an old one brought back.

The steps, and why each is there, are in `invalidator.app.cache.reader`. This module drives them with threads and
pymemcache; `invalidator.app.cache.async_lookaside` does so with asyncio.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from invalidator.app.cache.base import Asked, KeyOf, LookAside, Options, answers, as_loaded, key_maker, terms_of, values
from invalidator.app.cache.commands import Load, Position, Wait
from invalidator.app.cache.freshness import Loaded
from invalidator.app.cache.nodes import Nodes
from invalidator.app.cache.reader import Terms

T = TypeVar("T")
P = ParamSpec("P")


class LookAsideCache(LookAside):
    """Reads through memcached, for any number of threads.

    A hit costs one command. Of those who miss, one loads and fills (four commands); the others wait for it, and load
    too if that takes too long. What was evicted while it was being loaded is served and not stored. With memcached down
    everything is loaded: no read fails that `load` can answer.

    Args:
        nodes: ``"host:port"`` each, as HashClient's; or label -> ``"host:port"``, as in the worker's ``[ring]``.
        position: for loads from replicas: asks the *primary* how far it is, as a number. `load` then returns `Loaded`
            with its `as_of`; a value without one, or from too far behind, is served and not stored.
        max_lag: for loads from replicas that cannot tell `as_of`: how many seconds they are behind, at most. What is
            loaded in that time after a miss is served and not stored. With neither, `load` reads from the primary.
        ring, prefix: as the worker's ``ring.kind`` and ``memcached.prefix``.
        serializer: of values; `Json` by default.
        tls, login: for nodes with TLS, and for those that ask for user and password.
        timeout: seconds for a node to take a connection, and for each piece of an answer.
        patience: seconds to wait for what another reader loads; best a little longer than most loads take.
        on_read: called with every key that is read: `Reads.count`, for instance.

    `load` must read anew, in no transaction that was open before: that one cannot see what was evicted meanwhile.

    >>> cache = LookAsideCache(["127.0.0.1:11211"])
    >>> cache.get_or_load("product:1", lambda: {"price": 109.99}, ttl=3600)
    {'price': 109.99}
    >>> cache.get_or_load("product:1", lambda: {"price": "not loaded again"}, ttl=3600)
    {'price': 109.99}

    Raises:
        ConfigurationError: there are no nodes, an address is none, or there is no such ring.
    """

    def __init__(
        self,
        nodes: Sequence[str] | Mapping[str, str],
        *,
        position: Callable[[], float] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(nodes, position, **options)
        self._nodes = Nodes(
            self._addresses, ring=self._ring, prefix=self._prefix, timeout=self._timeout, entry=self._entry
        )

    @overload
    def get_or_load(self, key: str, load: Callable[[], Loaded[T]], **asked: Unpack[Asked]) -> T: ...
    @overload
    def get_or_load(self, key: str, load: Callable[[], T], **asked: Unpack[Asked]) -> T: ...
    def get_or_load(self, key: str, load: Callable[[], Any], **asked: Unpack[Asked]) -> Any:
        """The value of `key`; from `load` if it is not cached.

        Args:
            key: printable ASCII without spaces, 250 bytes with the prefix; anything else is never cached.
            load: reads the source, and returns the value or `Loaded`. None means that there is no such thing, and is
                cached too.
            ttl: seconds; up to a tenth less, so that what was filled together does not expire together, and 30 days
                at most.
            negative_ttl: the same for None, if it is to be another; 0: None is not cached.
            stale_for: seconds. While somebody else loads, a value that this process saw so long ago is returned
                instead of waiting.

        Raises:
            ConfigurationError: `ttl` is not positive.
            Exception: whatever `load` raises.
        """
        return self._run([key], terms_of(**asked), lambda _: [as_loaded(load())])[key]

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
        """The values of many keys; `load` is called with those that are to be loaded, mostly once.

        What `load` leaves out is not there: None. Otherwise as `get_or_load`.

        >>> cache = LookAsideCache(["127.0.0.1:11211"])
        >>> cache.get_many_or_load(["user:1", "user:2"], lambda keys: {key: key.upper() for key in keys}, ttl=60)
        {'user:1': 'USER:1', 'user:2': 'USER:2'}
        """
        wanted = list(dict.fromkeys(keys))
        return self._run(
            wanted, terms_of(**asked), lambda loads: answers(loads, load([command.key for command in loads]))
        )

    def cached(self, key: KeyOf, **asked: Unpack[Asked]) -> "Decorator":
        """A decorator: the function is the `load` of `get_or_load`; the key is made of its arguments.

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
        self._nodes.close()

    def _run(
        self, keys: Sequence[str], terms: Terms, load: Callable[[Sequence[Load]], list[Loaded[Any]]]
    ) -> dict[str, Any]:
        rounds = self._begin(keys, terms)
        try:
            commands = next(rounds)
            while True:
                try:
                    answer = load(commands) if isinstance(commands[0], Load) else self._answer(commands)
                except Exception as error:  # noqa: BLE001  raised again when the placeholders are released
                    commands = rounds.throw(error)
                else:
                    commands = rounds.send(answer)
        except StopIteration as end:
            return values(keys, end.value)

    def _answer(self, commands: Sequence[Any]) -> Sequence[Any]:
        match commands[0]:
            case Position():
                return [self._position()] * len(commands)
            case Wait():
                time.sleep(max(command.seconds for command in commands))
                return [None] * len(commands)
            case _:
                return self._nodes.answer(commands)

    def _position(self) -> float | None:
        assert self._ask_position
        try:
            return float(self._ask_position())
        except Exception as error:  # noqa: BLE001  a read that the source can answer must not fail
            self._no_position(error)
            return None


class Decorator(Protocol):
    """What `LookAsideCache.cached` returns."""

    @overload
    def __call__(self, function: Callable[P, Loaded[T]], /) -> Callable[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]: ...
