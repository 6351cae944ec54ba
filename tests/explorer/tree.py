"""What a reader does next is decided by what it was answered so far. So each such history is played to the real code
once, and looked up ever after: a reader's whole state is a place in this tree, which is cheap to copy and to compare.
"""

import gc
from collections.abc import Callable, Generator, Hashable
from functools import cache
from typing import Any

from invalidator.app.cache.commands import Command, LetGo, Wait

#: Begins a reader, given the clock that it is to use.
Script = Callable[[Callable[[], float]], Generator[Command, Any, Any]]
#: What a reader was answered, and what its clock showed then.
Answer = tuple[Hashable, int]


class Play:
    """The real code at work, up to where it has given its command; None at its end."""

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
            self.command = self._steps.send(value)
            # What asks nothing of anybody is no step: others act between any two anyhow.
            while isinstance(self.command, LetGo | Wait):
                self.command = self._steps.send(None)
        except StopIteration:
            self.command = None


class Place:
    """A reader that was answered so and so: the command that it gives now."""

    __slots__ = ("_answers", "_next", "_play", "_script", "command")
    remembered = 0

    def __init__(self, script: Script, answers: tuple[Answer, ...], play: Play) -> None:
        self._script = script
        self._answers = answers
        self._next: dict[Answer, Place] = {}
        #: Whoever is answered first goes on with it; the others have to begin anew.
        self._play: Play | None = play
        self.command = play.command
        Place.remembered += 1

    def answered(self, value: Hashable, now: int) -> "Place":
        """Where the reader is after that answer; `now` is what its clock shows then."""
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
    """A reader at its beginning."""
    return Place(script, (), Play(script))


def forget_beyond(most: int) -> None:
    """Let all trees grow anew if more places than that are remembered."""
    if Place.remembered > most:
        root.cache_clear()
        gc.collect()
        Place.remembered = 0
