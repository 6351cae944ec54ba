"""Readers of one process: the world with one place for several that share their loads, or for one of several keys.

A reader that waits for another one's flight has no command until that flight ends. Beyond the rules of the world:

1. A read begins with its first command, so before or after another reader's load. If all events were taken by then, it
   must not return what was there before (`is_stale`): its caller may know of the eviction.
2. At rest no reader waits (`is_left`).
"""

from asyncio import CancelledError
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from invalidator.app.cache.commands import Command, Get, Join, LetGo, Load, Steps, Wait
from invalidator.app.cache.multi import Rounds
from invalidator.app.cache.reader import Reader, Terms
from tests.explorer.case import KEY, Case, LoadError, Row
from tests.explorer.tree import Place
from tests.explorer.world import World


class Turn(NamedTuple):
    """A reader's command, None while it waits and at its end, and the row that it returned."""

    command: Command | None
    has_begun: bool
    waits: bool = False
    result: Row | None = None


class Process:
    """The readers of one process, played by the real code."""

    def __init__(self, make: Callable[[Callable[[], int]], Reader], readers: int, terms: Terms) -> None:
        self._at_work = 0
        reader = make(lambda: self._at_work)
        self._steps: list[Steps] = [reader.read(KEY, terms) for _ in range(readers)]
        self._joined: dict[int, Join] = {}
        self.turns = [Turn(Get(KEY), False)] * readers

    def play(self) -> Generator[Any, Any, None]:
        """Yield the turns, and expect the number of a reader with the answer to its command."""
        while True:
            index, answer = yield tuple(self.turns)
            if not self.turns[index].has_begun:
                next(self._steps[index])
            self._go_on(index, answer)
            while ended := [index for index, join in self._joined.items() if join.ended.done()]:
                del self._joined[ended[0]]
                self._go_on(ended[0], None)

    def _go_on(self, index: int, answer: Any) -> None:
        self._at_work = index
        steps = self._steps[index]
        is_error = isinstance(answer, type) and issubclass(answer, BaseException)
        try:
            command = steps.throw(answer()) if is_error else steps.send(answer)
            while isinstance(command, LetGo | Wait):
                command = steps.send(None)
        except StopIteration as end:
            self.turns[index] = Turn(None, True, result=end.value.value)
        except (LoadError, CancelledError):
            self.turns[index] = Turn(None, True)
        else:
            if isinstance(command, Join):
                self._joined[index] = command
                self.turns[index] = Turn(None, True, waits=True)
            else:
                self.turns[index] = Turn(command, True)


class Herd(World):
    """A world whose readers are those of one process, or one for each key that a reader reads at once."""

    __slots__ = ("floors", "has_served_old", "process")

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.process: Place
        (self.process,) = case.readers
        self._show_turns()
        self.held = (None,) * len(self.readers)
        #: The oldest row that each reader may return, if its read has begun after everything was evicted.
        self.floors: tuple[Row | None, ...] = (None,) * len(self.readers)
        self.has_served_old = False

    def is_stale(self) -> bool:
        return self.has_served_old or super().is_stale()

    def is_left(self) -> bool:
        return any(turn.waits for turn in self._turns()) or super().is_left()

    def copy(self) -> "Herd":
        other: Herd = super().copy()  # type: ignore[assignment]
        for name in Herd.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def state(self) -> tuple[object, ...]:
        return *super().state(), self.process, self.floors, self.has_served_old

    def _go_on(self, index: int, answer: Any) -> None:
        if not self._turns()[index].has_begun and not self.queued and not self.decoded:
            self.floors = (*self.floors[:index], self.commits[-1][1], *self.floors[index + 1 :])
        self.process = self.process.answered((index, answer), 0)
        self._show_turns()
        for turn, floor in zip(self._turns(), self.floors, strict=True):
            if turn.result and floor and any(new < old for new, old in zip(turn.result, floor, strict=True)):
                self.has_served_old = True

    def _show_turns(self) -> None:
        """Let each turn stand for a reader: it has a command too."""
        self.readers = self.process.command  # type: ignore[assignment]

    def _turns(self) -> tuple[Turn, ...]:
        return self.readers  # type: ignore[return-value]


class Lockstep:
    """One reader of several keys at once. What it is asked for at once arrives in any order."""

    def __init__(
        self, readings: Sequence[Steps], keys: Sequence[str], rounds: Callable[[Sequence[Steps]], Rounds]
    ) -> None:
        self._rounds = rounds(readings)
        self._keys = list(keys)
        self.turns = [Turn(None, True)] * len(keys)

    def play(self) -> Generator[Any, Any, None]:
        """Yield a turn for each key, and expect the number of a key with the answer to its command."""
        commands: list[Any] = next(self._rounds)
        while commands:
            answers = yield from self._answers(commands)
            try:
                commands = self._rounds.throw(answers()) if isinstance(answers, type) else self._rounds.send(answers)
            except (StopIteration, LoadError, CancelledError):
                commands = []
        while True:
            yield tuple(self.turns)

    def _answers(self, commands: list[Any]) -> Generator[Any, Any, Any]:
        """Return the answers, or the error of the load, of which there is one for all keys."""
        if isinstance(commands[0], LetGo | Wait):
            return [None] * len(commands)
        asked = commands[:1] if isinstance(commands[0], Load) else commands
        answers: dict[str, Any] = {}
        for command in asked:
            self.turns[self._keys.index(command.key)] = Turn(command, True)
        while len(answers) < len(asked):
            index, answer = yield tuple(self.turns)
            answers[self._keys[index]] = answer
            self.turns[index] = Turn(None, True)
        found = [answers[command.key] for command in asked]
        return found[0] if isinstance(found[0], type) else found * (len(commands) // len(asked))


def world_of(case: Case) -> World:
    return Herd(case) if case.is_one_process else World(case)
