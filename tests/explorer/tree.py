"""A tree of answers, with the next command of a reader at each place.

The answers so far decide the next command. Each such history is played to the real code once and then remembered. So
the whole state of a reader is a place in this tree, which is cheap to copy and to compare.
"""

import gc
from collections.abc import Callable, Generator, Hashable
from functools import cache
from typing import Any

from invalidator.app.cache.commands import Command, LetGo, Wait

#: A function that begins a reader with the given clock.
Script = Callable[[Callable[[], float]], Generator[Command, Any, Any]]
#: An answer, or the class of an error of the load, and the time on the reader's clock when it arrived.
Answer = tuple[Hashable, int]


class Play:
    """The real code, advanced to its current command; None at its end."""

    def __init__(self, script: Script) -> None:
        self._now = 0
        self._steps = script(lambda: self._now)
        self.command: Command | None = None
        self._go_on(None)

    def answer(self, answer: Answer) -> None:
        value, self._now = answer
        self._go_on(value)

    def _go_on(self, value: Any) -> None:
        try:
            is_error = isinstance(value, type) and issubclass(value, BaseException)
            self.command = self._steps.throw(value()) if is_error else self._steps.send(value)
            # These commands ask for nothing, so they are no steps: others may act between any two steps anyway.
            while isinstance(self.command, LetGo | Wait):
                self.command = self._steps.send(None)
        except StopIteration:
            self.command = None


class Place:
    """A reader after a history of answers, with its current command."""

    __slots__ = ("_answers", "_next", "_play", "_script", "command")
    remembered = 0

    def __init__(self, script: Script, answers: tuple[Answer, ...], play: Play) -> None:
        self._script = script
        self._answers = answers
        self._next: dict[Answer, Place] = {}
        #: The first answer continues this play. Other answers have to replay the history.
        self._play: Play | None = play
        self.command = play.command
        Place.remembered += 1

    def answered(self, value: Hashable, now: int) -> "Place":
        """Return the place after that answer, which arrives at `now` on the reader's clock."""
        answer = value, now
        place = self._next.get(answer)
        if place is None:
            play = self._taken_play()
            play.answer(answer)
            place = self._next[answer] = Place(self._script, (*self._answers, answer), play)
        return place

    def _taken_play(self) -> Play:
        play, self._play = self._play, None
        if play is None:
            play = Play(self._script)
            for answer in self._answers:
                play.answer(answer)
        return play


@cache
def root(script: Script) -> Place:
    """Return the place at which a reader begins."""
    return Place(script, (), Play(script))


def forget_beyond(most: int) -> None:
    """Drop all trees if more than `most` places are remembered."""
    if Place.remembered > most:
        root.cache_clear()
        gc.collect()
        Place.remembered = 0
