"""A search through every interleaving of a case, breadth first, so that it finds the shortest way."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from invalidator.app.cache.commands import Get, Gets, Held
from invalidator.app.cache.freshness import Loaded
from invalidator.app.cache.items import Item
from tests.explorer.case import Case, Step
from tests.explorer.herd import world_of
from tests.explorer.world import World


@dataclass
class Found:
    states: int = 0
    #: States of rest with a current value cached, and without one.
    filled: int = 0
    empty: int = 0
    #: The choices that lead to a stale key, or to a placeholder that is left, if any do.
    stale: tuple[int, ...] | None = None


class Path(NamedTuple):
    """The choices of a step, and the path to it: paths share their beginnings."""

    choices: tuple[int, ...]
    before: "Path | None"


def search(case: Case) -> Found:
    """Visit every reachable state, up to the first in which a key is stale or a placeholder is left."""
    found = Found()
    beginning = world_of(case)
    seen = {beginning.state()}
    waiting: deque[tuple[World, Path | None]] = deque([(beginning, None)])
    while waiting:
        world, path = waiting.popleft()
        found.states += 1
        at_rest = True
        for choices, after in steps(world):
            at_rest = False
            state = after.state()
            if state in seen:
                continue
            seen.add(state)
            if after.is_stale():
                found.stale = _unrolled(Path(choices, path))
                return found
            waiting.append((after, Path(choices, path)))
        if at_rest:
            if world.is_left():
                found.stale = _unrolled(path)
                return found
            found.filled += world.is_filled()
            found.empty += not world.is_filled()
    return found


def steps(world: World) -> Iterator[tuple[tuple[int, ...], World]]:
    """Yield every possible step: the choices made, and the world after it."""
    chooser = Chooser()
    while True:
        after = world.copy()
        if after.step(chooser) is None:
            return
        yield tuple(chooser.choices), after
        if not chooser.turn():
            return


class Chooser:
    """A chooser that makes the first choice everywhere, and after each `turn` another combination, to the last one."""

    def __init__(self) -> None:
        self.choices: list[int] = []
        self._limits: list[int] = []

    def __call__(self, n: int) -> int:
        self._limits.append(n)
        if len(self.choices) < len(self._limits):
            self.choices.append(0)
        return self.choices[len(self._limits) - 1]

    def turn(self) -> bool:
        """Move on to the next combination. Return False if there is none."""
        while self.choices and self.choices[-1] + 1 == self._limits[len(self.choices) - 1]:
            self.choices.pop()
        if self.choices:
            self.choices[-1] += 1
        self._limits = []
        return bool(self.choices)


def story(case: Case, choices: Sequence[int]) -> list[str]:
    """Return the steps that these choices lead to, one line for each."""
    world = world_of(case)
    made = iter(choices)
    lines = []
    while step := world.step(lambda n: next(made)):
        lines.append(_line(step))
        if world.is_stale():
            return [*lines, "stale"]
    return [*lines, "left"] if world.is_left() else lines


def _line(step: Step) -> str:
    who, what, answer = step
    said = what if isinstance(what, str) else type(what).__name__.lower()
    if isinstance(what, Get | Gets):
        answer = answer or "nothing"
    return f"{who}: {said}" if answer is None else f"{who}: {said} -> {_short(answer)}"


def _short(answer: Any) -> Any:
    match answer:
        case Held(item):
            return _short(item)
        case Item(data):
            return data.decode()
        case Loaded(value, None):
            return value
        case Loaded(value, as_of):
            return f"{value} as of {as_of}"
    return answer


def _unrolled(path: Path | None) -> tuple[int, ...]:
    parts: list[tuple[int, ...]] = []
    while path:
        parts.append(path.choices)
        path = path.before
    return tuple(choice for choices in reversed(parts) for choice in choices)
