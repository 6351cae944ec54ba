"""The whole world: a database and its replicas, memcached, a queue of events, readers, a worker. READ FIRST.

    writer: commit, which queues an event           reader: one command of its protocol, or an error of its load
    worker: take an event, delete the key           time: a tick

`choose(n)` decides which step comes next, and how it ends. Chance answers it, or a search that tries all answers.

Rules of this world:

1. There is one key, or one on each of several nodes. Its value is made of the latest revisions of two entities, and a
   change of either evicts it. Other keys play no part, because keys of a node share nothing but its restart. Events for
   one key are equal, so reordering them means choosing *when* each is taken. An event that was not acknowledged is
   taken twice. Readers with another ring read the same thing under another key: on another node.
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
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, Load
from invalidator.app.cache.freshness import Loaded
from invalidator.app.cache.items import LEASE, Item
from tests.explorer.case import Case, Choose, LoadError, Row, Step
from tests.explorer.model import Model


class World:
    """A mutable state. `copy` it to try more than one step."""

    __slots__ = (
        "case",
        "commits",
        "decoded",
        "delayed",
        "faults",
        "held",
        "nodes",
        "now",
        "queued",
        "readers",
        "taken",
        "writers",
    )

    def __init__(self, case: Case, memcached: Any = None) -> None:
        self.case = case
        #: Each holds the key at the same place in `case.keys`.
        self.nodes: tuple[Any, ...] = (memcached,) if memcached else tuple(Model() for _ in case.keys)
        self.readers = case.readers
        #: The token that each reader's `gets` returned: the life of memcached, and the CAS number.
        self.held: tuple[tuple[int, int] | None, ...] = (None,) * len(case.readers)
        self.writers = case.writers
        self.commits: tuple[tuple[int, Row], ...] = ((-1, (0, 0)),)
        #: Entities of commits whose event is queued, and that cannot be seen yet.
        self.decoded: tuple[int, ...] = ()
        #: The keys of events not yet taken, and of those taken that may be redelivered.
        self.queued: tuple[str, ...] = ()
        self.taken: frozenset[str] = frozenset()
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
        current = _item(self.commits[-1][1])
        values = [item for item in self._items() if item.flags == 0]
        return not self.queued and not self.decoded and any(item != current for item in values)

    def is_left(self) -> bool:
        """Return True if, at rest, there is a placeholder that its reader should have released."""
        return not self.case.excused and any(item.flags == LEASE for item in self._items())

    def is_filled(self) -> bool:
        return any(item.flags == 0 for item in self._items())

    def copy(self) -> "World":
        other = type(self).__new__(type(self))
        for name in World.__slots__:
            setattr(other, name, getattr(self, name))
        other.nodes = tuple(node.copy() for node in self.nodes)
        return other

    def state(self) -> tuple[object, ...]:
        """Return a value that is equal for states with an equal future."""
        return (
            tuple(node.state() for node in self.nodes), self.readers, self.held, self.writers, self.commits,
            self.queued, self.taken, self.decoded, self.delayed, self.faults, self.now,
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
            return self._node(command.key).get(command.key)
        if kind is Gets:
            return self._gets(index, command.key)
        if kind is Add or kind is Cas or kind is Set:
            return self._store(command, self.held[index])
        return self.now  # the primary's position

    def _gets(self, index: int, key: str) -> Held | None:
        found = self._node(key).gets(key)
        token = found.token if found else None
        self.held = (*self.held[:index], token, *self.held[index + 1 :])
        return Held(found.item, None) if found else None

    def _store(self, command: Any, held: Any) -> Any:
        kind, node = type(command), self._node(command.key)
        if kind is Set:
            return node.set(command.key, command.item, command.expire)
        if kind is Add:
            return node.add(command.key, command.item, command.expire)
        token = (node.life, held[1]) if self.case.reconnects else held
        return node.cas(command.key, command.item, command.expire, token)

    def _node(self, key: str) -> Any:
        return self.nodes[self.case.keys.index(key)]

    def _items(self) -> list[Item]:
        found = (node.get(key) for key, node in zip(self.case.keys, self.nodes, strict=True))
        return [item for item in found if item]

    def _load(self, choose: Choose) -> Loaded[Row]:
        if not self.case.lag:
            return _loaded(self.commits[-1][1], None)
        as_of = self.now - choose(min(self.case.lag, self.now) + 1)
        surely = sum(tick < as_of for tick, _ in self.commits)
        possibly = sum(tick <= as_of for tick, _ in self.commits)
        seen = surely + choose(possibly - surely + 1)
        return _loaded(self.commits[seen - 1][1], as_of if self.case.tells else None)

    def _commit(self, choose: Choose) -> Step:
        self._announce()
        return "writer", "commit", self._make_visible(self._written(choose))

    def _decode(self, choose: Choose) -> Step:
        self.decoded = (*self.decoded, self._written(choose))
        self._announce()
        return "writer", "commit, decoded", None

    def _appear(self, choose: Choose) -> Step:
        entity, *later = self.decoded
        self.decoded = tuple(later)
        return "database", "commit seen", self._make_visible(entity)

    def _announce(self) -> None:
        evicted = self.case.keys if self.case.evicted is None else self.case.evicted
        self.queued = tuple(sorted((*self.queued, *evicted)))

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
        key = _any_of(sorted(set(self.queued)), choose)
        index = self.queued.index(key)
        self.queued = self.queued[:index] + self.queued[index + 1 :]
        self.taken |= {key}
        return "worker", self._on(key, "delete"), self._node(key).delete(key)

    def _on(self, key: str, what: str) -> str:
        return what if len(self.case.keys) == 1 else f"{what} {key}"

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
            "drop": (self._drop, bool(self._items())),
            "repeat": (self._repeat, bool(self.taken)),
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
        key = _any_of(self.case.keys, choose)
        self._node(key).restart()
        return "memcached", self._on(key, "restart"), None

    def _drop(self, choose: Choose) -> Step:
        key = _any_of([key for key in self.case.keys if self._node(key).get(key)], choose)
        self._node(key).delete(key)
        return "memcached", self._on(key, "drop"), None

    def _repeat(self, choose: Choose) -> Step:
        key = _any_of(sorted(self.taken), choose)
        self.queued = tuple(sorted((*self.queued, key)))
        return "queue", self._on(key, "deliver again"), None

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


def _any_of(keys: Sequence[str], choose: Choose) -> str:
    return keys[choose(len(keys))] if len(keys) > 1 else keys[0]


@cache
def _item(row: Row) -> Item:
    return Item(b"[%d,%d]" % row)


@cache
def _loaded(row: Row, as_of: int | None) -> Loaded[Row]:
    return Loaded(row, as_of)
