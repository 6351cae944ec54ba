"""A world without servers for an auditor: nodes, a source, and a book of results, each as a test sets it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from invalidator.app.cache.items import Item
from invalidator.audit.account import Finding
from invalidator.audit.budget import Budget
from invalidator.audit.sandwich import Answer, Sighting, Unseen
from invalidator.audit.tracked import Tracked
from invalidator.audit.tracker import Read, Tracker
from invalidator.audit.truth import Truth
from invalidator.audit.verdict import Reason, Verdict

#: More than any test uses.
PLENTY = 1_000_000.0


def value(text: str) -> Item:
    return Item(f'"{text}"'.encode())


class Nodes:
    """Nodes that hold one item each, under any key."""

    def __init__(self, *labels: str) -> None:
        self.labels = labels or ("c1",)
        self.items: dict[str, Item] = {}
        self.down: set[str] = set()
        self.connections = dict.fromkeys(self.labels, 1)
        self.asked = 0
        self.removed: list[tuple[str, str]] = []
        self._numbers = dict.fromkeys(self.labels, 0)

    def store(self, text: str, *labels: str) -> None:
        self.put(value(text), *labels)

    def put(self, item: Item, *labels: str) -> None:
        for label in labels or self.labels:
            self.items[label] = item
            self._numbers[label] += 1

    def evict(self) -> None:
        self.items.clear()

    def restart(self, label: str) -> None:
        self.connections[label] += 1
        self._numbers[label] = 0
        self.items.pop(label, None)

    async def gets(self, key: str, labels: Collection[str] | None = None) -> Mapping[str, Answer]:
        self.asked += 1
        return {label: self._answer(label) for label in (self.labels if labels is None else labels)}

    async def remove(self, key: str, label: str, seen: Sighting) -> bool:
        if self.items.get(label) != seen.item:
            return False
        del self.items[label]
        self.removed.append((label, key))
        return True

    def _answer(self, label: str) -> Answer:
        if label in self.down:
            return Unseen("down")
        if item := self.items.get(label):
            return Sighting(item, b"%d" % self._numbers[label], self.connections[label])
        return None


class Source:
    """A source with one content for every key; `on_read` happens during each read."""

    def __init__(self, content: object) -> None:
        self.content: object = content
        self.is_down = False
        self.reads = 0
        self.on_read: Callable[[], object] = lambda: None

    async def read(self) -> Truth | None:
        self.reads += 1
        found = None if self.is_down else Truth.of(self.content)
        self.on_read()
        return found

    def read_of(self, key: str) -> Read | None:
        return None if key.startswith("secret:") else self.read


class Book:
    """The results of an auditor."""

    def __init__(self) -> None:
        self.counts: list[tuple[float, Verdict]] = []
        self.findings: list[Finding] = []

    def count(self, delay: float, verdict: Verdict) -> None:
        self.counts.append((delay, verdict))

    def found(self, finding: Finding) -> None:
        self.findings.append(finding)


class World:
    """The parts together."""

    def __init__(self, content: object = "new", *labels: str, reads: float = PLENTY, commands: float = PLENTY) -> None:
        self.nodes, self.source, self.book = Nodes(*labels), Source(content), Book()
        self.reason = Reason.WRITTEN_BACK
        self.reads, self.commands = Budget(reads, least=5), Budget(commands)

    def tracker(self, *, repairs: bool | Budget = True, **options: Any) -> Tracker:
        return Tracker(
            self.nodes,
            self.source.read_of,
            self._explain,
            self.book,
            reads=self.reads,
            commands=self.commands,
            repairs=(Budget(PLENTY) if repairs is True else repairs) or None,
            **options,
        )

    async def _explain(self, key: str, label: str, tracked: Tracked) -> Reason:
        return self.reason
