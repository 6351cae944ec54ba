"""The whole world: a database and its replicas, memcached, a queue of events, readers, a worker. READ FIRST.

    writer: commit, which queues an event           reader: one command of its protocol, or an error of its load
    worker: take an event, delete the key           time: a tick

`choose(n)` decides which step comes next, and how it ends. Chance answers it, or a search that tries all answers.

Rules of this world:

1. There is one key. Its value is made of the latest revisions of two entities, and a change of either evicts it. Other
   keys play no part, because keys of a node share nothing but its restart. Events for one key are equal, so reordering
   them means choosing *when* each is taken. An event that was not acknowledged is taken twice.
2. Ticks are seconds, and the scale of positions too. Several commits fall into one tick, so two reads at the same
   position need not see the same. A read `as_of` a tick has seen every commit before that tick, and some of that tick.
3. Each read of a replica is at any place in the last `lag` ticks. A read in a snapshot that was opened before is the
   same, further back.
4. A lost connection loses the command, or only its answer, or delays it: it may still be executed at any time later. A
   restart ends all connections: commands that are held or delayed on them are never executed.
5. A commit can be seen as soon as its event is queued, unless `early`: then the event may even be taken before. That is
   how a change event comes that nobody holds back until new reads see the change.
6. A key is stale if its value differs from the database's, every event was taken and every commit can be seen. A
   placeholder is left if it is there at rest, though nothing happened that excuses it (`case.excused`).
"""

from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, Load
from invalidator.app.cache.freshness import Loaded
from invalidator.app.cache.items import LEASE, Item
from tests.explorer.model import Model
from tests.explorer.tree import Place

KEY = "k"
#: A function that returns a number below n.
Choose = Callable[[int], int]
#: Revisions of the two entities.
Row = tuple[int, int]
#: The actor, the action and the result.
Step = tuple[str, Any, Any]


#: Faults of servers and connections: each may leave a placeholder, until it expires.
OUTAGES = ("restart", "drop", "repeat", "lose")
#: Ends of a load, and of a fill, that no reader wants. None of them may leave a placeholder.
FAILURES = ("fail", "cancel", "refuse")


class LoadError(Exception):
    """Raised by a load that fails."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The beginning of a run."""

    readers: tuple[Place, ...]
    #: The entity, 0 or 1, that each writer changes in its one commit.
    writers: tuple[int, ...]
    faults: int
    #: The faults that may happen.
    kinds: tuple[str, ...] = OUTAGES
    ticks: int = 0
    #: Ticks by which a read may lag; 0 for the primary.
    lag: int = 0
    #: True if a read returns its position.
    tells: bool = False
    #: True if a lost connection is reopened in silence, even between `gets` and `cas`: a guard removed.
    reconnects: bool = False
    #: True if an event may be taken before its commit can be seen: a guard removed.
    early: bool = False
    #: True if the one place is that of several readers of a process (see `herd`).
    is_one_process: bool = False

    @property
    def excused(self) -> bool:
        """Return True if placeholders may be left: servers or connections fail, or a read may be unproven."""
        return self.lag > 0 or any(kind in OUTAGES for kind in self.kinds)


class World:
    """A mutable state. `copy` it to try more than one step."""

    __slots__ = (
        "case",
        "commits",
        "decoded",
        "delayed",
        "faults",
        "held",
        "memcached",
        "now",
        "queued",
        "readers",
        "taken",
        "writers",
    )

    def __init__(self, case: Case, memcached: Any = None) -> None:
        self.case = case
        self.memcached = memcached or Model()
        self.readers = case.readers
        #: The token that each reader's `gets` returned: the life of memcached, and the CAS number.
        self.held: tuple[tuple[int, int] | None, ...] = (None,) * len(case.readers)
        self.writers = case.writers
        self.commits: tuple[tuple[int, Row], ...] = ((-1, (0, 0)),)
        #: Entities of commits whose event is queued, and that cannot be seen yet.
        self.decoded: tuple[int, ...] = ()
        #: Events not yet taken, and True if one was taken that may be redelivered.
        self.queued, self.taken = 0, False
        #: Commands on lost connections, which memcached may still execute.
        self.delayed: tuple[tuple[Add | Cas, Any], ...] = ()
        self.faults = case.faults
        self.now = 0

    def step(self, choose: Choose) -> Step | None:
        """Take one step, and return None when everything is at rest."""
        reading = [index for index, place in enumerate(self.readers) if place.command]
        moves: list[Callable[[Choose], Step]] = []
        if self.writers:
            moves.append(self._decode if self.case.early else self._commit)
        if self.decoded:
            moves.append(self._appear)
        if self.queued:
            moves.append(self._evict)
        if self.delayed:
            moves.append(self._catch_up)
        if not reading and not moves:
            return None
        if reading and self.now < self.case.ticks:
            moves.append(self._tick)
        if self.faults and self._possible_faults():
            moves.append(self._fail)
        chosen = choose(len(reading) + len(moves))
        if chosen < len(reading):
            return self._read(reading[chosen], choose)
        return moves[chosen - len(reading)](choose)

    def is_stale(self) -> bool:
        item = self.memcached.get(KEY)
        is_value = item is not None and item.flags == 0
        return is_value and not self.queued and not self.decoded and item != _item(self.commits[-1][1])

    def is_left(self) -> bool:
        """Return True if, at rest, there is a placeholder that its reader should have released."""
        item = self.memcached.get(KEY)
        return not self.case.excused and item is not None and item.flags == LEASE

    def is_filled(self) -> bool:
        item = self.memcached.get(KEY)
        return item is not None and item.flags == 0

    def copy(self) -> "World":
        other = type(self).__new__(type(self))
        for name in World.__slots__:
            setattr(other, name, getattr(self, name))
        other.memcached = self.memcached.copy()
        return other

    def state(self) -> tuple[object, ...]:
        """Return a value that is equal for states with an equal future."""
        return (
            self.memcached.state(), self.readers, self.held, self.writers, self.commits, self.queued, self.taken,
            self.decoded, self.delayed, self.faults, self.now,
        )  # fmt: skip

    def _read(self, index: int, choose: Choose) -> Step:
        place = self.readers[index]
        answer = self._answer(index, place.command, choose)
        self._go_on(index, answer)
        return f"reader {index}", place.command, answer

    def _go_on(self, index: int, answer: Any) -> None:
        # Only readers that measure ages read the clock. For the others a later answer leads to the same state.
        now = self.now if self.case.lag and not self.case.tells else 0
        place = self.readers[index].answered(answer, now)
        self.readers = (*self.readers[:index], place, *self.readers[index + 1 :])

    def _answer(self, index: int, command: Any, choose: Choose) -> Any:
        kind = type(command)
        if kind is Load:
            return self._load(choose)
        if kind is Get:
            return self.memcached.get(KEY)
        if kind is Gets:
            return self._gets(index)
        if kind is Add or kind is Cas or kind is Set:
            return self._store(command, self.held[index])
        return self.now  # the primary's position

    def _gets(self, index: int) -> Held | None:
        found = self.memcached.gets(KEY)
        token = found.token if found else None
        self.held = (*self.held[:index], token, *self.held[index + 1 :])
        return Held(found.item, None) if found else None

    def _store(self, command: Any, held: Any) -> Any:
        kind = type(command)
        if kind is Set:
            return self.memcached.set(KEY, command.item, command.expire)
        if kind is Add:
            return self.memcached.add(KEY, command.item, command.expire)
        token = (self.memcached.life, held[1]) if self.case.reconnects else held
        return self.memcached.cas(KEY, command.item, command.expire, token)

    def _load(self, choose: Choose) -> Loaded[Row]:
        if not self.case.lag:
            return _loaded(self.commits[-1][1], None)
        as_of = self.now - choose(min(self.case.lag, self.now) + 1)
        surely = sum(tick < as_of for tick, _ in self.commits)
        possibly = sum(tick <= as_of for tick, _ in self.commits)
        seen = surely + choose(possibly - surely + 1)
        return _loaded(self.commits[seen - 1][1], as_of if self.case.tells else None)

    def _commit(self, choose: Choose) -> Step:
        self.queued += 1
        return "writer", "commit", self._make_visible(self._written(choose))

    def _decode(self, choose: Choose) -> Step:
        self.decoded = (*self.decoded, self._written(choose))
        self.queued += 1
        return "writer", "commit, decoded", None

    def _appear(self, choose: Choose) -> Step:
        entity, *later = self.decoded
        self.decoded = tuple(later)
        return "database", "commit seen", self._make_visible(entity)

    def _written(self, choose: Choose) -> int:
        index = choose(len(self.writers))
        entity = self.writers[index]
        self.writers = self.writers[:index] + self.writers[index + 1 :]
        return entity

    def _make_visible(self, entity: int) -> Row:
        first, second = self.commits[-1][1]
        row = (first + 1, second) if entity == 0 else (first, second + 1)
        self.commits = (*self.commits, (self.now, row))
        return row

    def _evict(self, choose: Choose) -> Step:
        self.queued -= 1
        self.taken = True
        return "worker", "delete", self.memcached.delete(KEY)

    def _tick(self, choose: Choose) -> Step:
        self.now += 1
        return "time", "tick", self.now

    def _catch_up(self, choose: Choose) -> Step:
        index = choose(len(self.delayed))
        command, held = self.delayed[index]
        self.delayed = self.delayed[:index] + self.delayed[index + 1 :]
        return "connection", command, self._store(command, held)

    def _fail(self, choose: Choose) -> Step:
        faults = self._possible_faults()
        self.faults -= 1
        return faults[choose(len(faults))](choose)

    def _possible_faults(self) -> list[Callable[[Choose], Step]]:
        possible: dict[str, tuple[Callable[[Choose], Step], bool]] = {
            "restart": (self._restart, True),
            "drop": (self._drop, self.memcached.get(KEY) is not None),
            "repeat": (self._repeat, self.taken),
            "lose": (self._lose, bool(self._at(Get | Add | Gets | Cas))),
            "fail": (self._fail_load, bool(self._at(Load))),
            "cancel": (self._cancel, bool(self._at(Load))),
            "refuse": (self._refuse, bool(self._at(Cas))),
        }
        return [possible[kind][0] for kind in self.case.kinds if possible[kind][1]]

    def _at(self, kind: Any) -> list[int]:
        """Return the readers whose command is of that kind."""
        return [index for index, place in enumerate(self.readers) if isinstance(place.command, kind)]

    def _restart(self, choose: Choose) -> Step:
        self.memcached.restart()
        return "memcached", "restart", None

    def _drop(self, choose: Choose) -> Step:
        self.memcached.delete(KEY)
        return "memcached", "drop", None

    def _repeat(self, choose: Choose) -> Step:
        self.queued += 1
        return "queue", "deliver again", None

    def _lose(self, choose: Choose) -> Step:
        """Lose a reader's connection, with the command not executed, executed without an answer, or executed later."""
        able = self._at(Get | Add | Gets | Cas)
        index = able[choose(len(able))]
        command: Any = self.readers[index].command
        how = choose(3 if isinstance(command, Add | Cas) else 1)
        if how == 1:
            self._store(command, self.held[index])
        elif how == 2:
            self.delayed = (*self.delayed, (command, self.held[index]))
        self._go_on(index, Failure.DOWN)
        return f"reader {index}", command, ("lost", "answer lost", "delayed")[how]

    def _fail_load(self, choose: Choose) -> Step:
        return self._end_load(LoadError, choose)

    def _cancel(self, choose: Choose) -> Step:
        return self._end_load(CancelledError, choose)

    def _end_load(self, error: type[BaseException], choose: Choose) -> Step:
        able = self._at(Load)
        index = able[choose(len(able))]
        command = self.readers[index].command
        self._go_on(index, error)
        return f"reader {index}", command, error.__name__

    def _refuse(self, choose: Choose) -> Step:
        """Refuse a value: it is too large, or memory is short. A command that only releases is never refused."""
        able = self._at(Cas)
        index = able[choose(len(able))]
        command: Any = self.readers[index].command
        answer = Failure.REFUSED if command.expire >= 0 else self._store(command, self.held[index])
        self._go_on(index, answer)
        return f"reader {index}", command, answer


class Set(Cas, frozen=True):
    """The command that plain look-aside uses instead."""


@cache
def _item(row: Row) -> Item:
    return Item(b"[%d,%d]" % row)


@cache
def _loaded(row: Row, as_of: int | None) -> Loaded[Row]:
    return Loaded(row, as_of)
