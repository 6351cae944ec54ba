"""`AsyncLookAsideCache`: `LookAsideCache` for an event loop."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from invalidator.app.cache.audit.tasks import AuditTasks
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
from invalidator.app.cache.nodes.async_nodes import AsyncNodes
from invalidator.app.cache.reader import Terms, terms_of

T = TypeVar("T")
P = ParamSpec("P")


class AsyncLookAsideCache(LookAside):
    """A `LookAsideCache` for any number of tasks, with the same steps and arguments. `load` and `position` are awaited.

    >>> async def load() -> dict[str, float]:
    ...     return {"price": 109.99}
    >>> async def show() -> dict[str, float]:
    ...     cache = AsyncLookAsideCache(["127.0.0.1:11211"])
    ...     try:
    ...         return await cache.get_or_load("product:1", load, ttl=3600)
    ...     finally:
    ...         cache.close()
    >>> asyncio.run(show())
    {'price': 109.99}
    """

    nodes: AsyncNodes
    _audit_type = AuditTasks

    def __init__(
        self,
        nodes: Sequence[str] | Mapping[str, str],
        *,
        position: Callable[[], Awaitable[float]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(nodes, position, **options)
        self.nodes = AsyncNodes(
            self._addresses, ring=self._ring, prefix=self._prefix, timeout=self._timeout, access=self._access
        )

    @overload
    async def get_or_load(self, key: str, load: Callable[[], Awaitable[Loaded[T]]], **asked: Unpack[Asked]) -> T: ...
    @overload
    async def get_or_load(self, key: str, load: Callable[[], Awaitable[T]], **asked: Unpack[Asked]) -> T: ...
    async def get_or_load(self, key: str, load: Callable[[], Awaitable[Any]], **asked: Unpack[Asked]) -> Any:
        """Return the value of `key`, as `LookAsideCache.get_or_load` does."""

        async def loaded(_: Sequence[Load]) -> list[Loaded[Any]]:
            return [as_loaded(await load())]

        terms = terms_of(**asked)
        if self._on_read:
            self._on_read(key)
        found = await self.nodes.get(key)
        if hit := self._reader.hit(key, found, terms):
            COUNT[hit.outcome]()
            if self._audit and next(self._audit.ticks, True):
                self._audit.draw()
                self._audit.begin(key, found, load)
            return hit.value
        (reading,) = await self._run([key], terms, loaded, [found])
        return value_of(reading, load)

    @overload
    async def get_many_or_load(
        self,
        keys: Iterable[str],
        load: Callable[[list[str]], Awaitable[Loaded[Mapping[str, T]]]],
        **asked: Unpack[Asked],
    ) -> dict[str, T | None]: ...
    @overload
    async def get_many_or_load(
        self, keys: Iterable[str], load: Callable[[list[str]], Awaitable[Mapping[str, T]]], **asked: Unpack[Asked]
    ) -> dict[str, T | None]: ...
    async def get_many_or_load(
        self, keys: Iterable[str], load: Callable[[list[str]], Awaitable[Any]], **asked: Unpack[Asked]
    ) -> dict[str, Any]:
        """Return the values of many keys, as `LookAsideCache.get_many_or_load` does."""

        async def loaded(loads: Sequence[Load]) -> list[Loaded[Any]]:
            return answers(loads, await load([command.key for command in loads]))

        async def loaded_one(key: str) -> Loaded[Any]:
            return (await loaded([Load(key)]))[0]

        wanted = list(dict.fromkeys(keys))
        if self._on_read:
            for key in wanted:
                self._on_read(key)
        terms = terms_of(**asked)
        found = await self.nodes.get_many(wanted)
        values, others = self._hits(wanted, found, terms)
        self._audit_some(values, wanted, found, loaded_one)
        if not others:
            return values
        readings = await self._run(list(others), terms, loaded, list(others.values()))
        values |= {key: reading.value for key, reading in zip(others, readings, strict=True)}
        return {key: values[key] for key in wanted}

    def cached(self, key: KeyOf, **asked: Unpack[Asked]) -> "AsyncDecorator":
        """Return a decorator for a coroutine function, as `LookAsideCache.cached` does."""

        def decorate(function: Callable[P, Awaitable[Any]]) -> Callable[P, Awaitable[Any]]:
            key_of = key_maker(key, function)

            @functools.wraps(function)
            async def read(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self.get_or_load(key_of(*args, **kwargs), lambda: function(*args, **kwargs), **asked)

            return read

        return decorate

    def close(self) -> None:
        """Close the idle connections; a later read opens new ones."""
        self.nodes.close()
        if self._audit:
            self._audit.close()

    async def _run(
        self,
        keys: Sequence[str],
        terms: Terms,
        load: Callable[[Sequence[Load]], Awaitable[list[Loaded[Any]]]],
        found: Sequence[Item | Failure | None],
    ) -> Sequence[Reading]:
        rounds = self._begin(keys, terms)
        try:
            next(rounds)  # asks for what was found
            commands = rounds.send(found)
            while True:
                try:
                    answer = await (load(commands) if isinstance(commands[0], Load) else self._answer(commands))
                except BaseException as error:  # noqa: BLE001  raised again once the placeholders are released
                    commands = rounds.throw(error)
                else:
                    commands = rounds.send(answer)
        except StopIteration as end:
            return counted(end.value)

    async def _answer(self, commands: Sequence[Any]) -> Sequence[Any]:
        match commands[0]:
            case Position():
                return [await self._position()] * len(commands)
            case Wait():
                await asyncio.sleep(max(command.seconds for command in commands))
                return [None] * len(commands)
            case Join():
                ended = [asyncio.wrap_future(command.ended) for command in commands]
                await asyncio.wait(ended, timeout=max(command.seconds for command in commands))
                return [None] * len(commands)
            case _:
                return await self.nodes.answer(commands)

    async def _position(self) -> float | None:
        assert self._ask_position
        try:
            return float(await self._ask_position())
        except Exception as error:  # noqa: BLE001  a read that the source can answer must not fail
            self._no_position(error)
            return None


class AsyncDecorator(Protocol):
    """The type of `AsyncLookAsideCache.cached`."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[Loaded[T]]], /) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]: ...
