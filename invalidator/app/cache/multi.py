"""Multi-get: several readings in lockstep, so that commands of one kind are sent at once. Pure.

For each node, many misses cost four round trips: a `get`, then `add`s, one `gets`, and `cas`es on the connection of the
`gets`.

Three would do if the `gets` followed the `add`s at once and the numbers were kept until the values are loaded. But then
the connection would have to be held for as long as a load takes, by each blocking reader on each node. And the nonce
would be compared long before the `cas`: a proxy that reconnects to a restarted memcached in between, where the numbers
start again, would let an evicted value through. Now such a proxy has the time from one command to the next.
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeAlias

from invalidator.app.cache.commands import (
    Add,
    Cas,
    Command,
    Get,
    Gets,
    Join,
    LetGo,
    Load,
    Position,
    Reading,
    Steps,
    Wait,
)

Rounds: TypeAlias = Generator[list[Any], Any, list[Reading]]

#: The order of commands. `Cas` and `LetGo` come first, because they hold connections. The cache comes before the
#: source, so that one read of the source begins after all placeholders are stored. Waiting for others comes last: a
#: reader that waits for the flight of another has ended its own, so no two wait for each other.
_ORDER = {kind: rank for rank, kind in enumerate((Cas, LetGo, Gets, Add, Get, Position, Load, Wait, Join))}


def together(readings: Sequence[Steps]) -> Rounds:
    """Yield lists of commands of one kind; each list expects its answers, in the same order.

    An error of `Load`, or its cancellation, is thrown in. It is raised again once the placeholders of the keys to be
    loaded are released. Readings that were not loading are abandoned.
    """
    try:
        return (yield from _rounds(readings))
    finally:
        for reading in readings:
            reading.close()


def _rounds(readings: Sequence[Steps]) -> Rounds:
    done: dict[int, Reading] = {}
    wanted = {index: next(reading) for index, reading in enumerate(readings)}
    failed: BaseException | None = None
    while wanted:
        chosen = _next(wanted)
        steps: list[Callable[[], Command]]
        try:
            answers = yield [wanted[index] for index in chosen]
            steps = [partial(readings[index].send, answer) for index, answer in zip(chosen, answers, strict=True)]
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  raised below
            failed, wanted = error, {}
            steps = [partial(readings[index].throw, error) for index in chosen]
        for index, step in zip(chosen, steps, strict=True):
            wanted.pop(index, None)
            try:
                wanted[index] = step()
            except StopIteration as end:
                done[index] = end.value
            except BaseException as error:
                if error is not failed:
                    raise
    if failed:
        raise failed
    return [done[index] for index in range(len(readings))]


def _next(wanted: dict[int, Command]) -> list[int]:
    kind = min({type(command) for command in wanted.values()}, key=_ORDER.__getitem__)
    return [index for index, command in wanted.items() if type(command) is kind]
