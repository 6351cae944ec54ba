"""The size of a run, and the schedule of its faults. Pure."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Production:
    """The size of a run."""

    seed: int = 1
    changes: int = 100_000
    follower_kills: int = 50
    relay_kills: int = 10
    broker_kills: int = 5
    database_stops: int = 3
    stalls: int = 30
    readers: int = 3
    #: Changes a second.
    rate: float = 600.0
    sabotage: str = ""

    def schedule(self) -> list[tuple[int, str]]:
        """Return the faults: each with the number of changes after which it happens."""
        chance = random.Random(self.seed)
        kinds = ["follower"] * self.follower_kills + ["relay"] * self.relay_kills + ["broker"] * self.broker_kills
        kinds += ["database"] * self.database_stops + ["stall"] * self.stalls
        chance.shuffle(kinds)
        return [(self.changes * (number + 1) // (len(kinds) + 1), kind) for number, kind in enumerate(kinds)]
