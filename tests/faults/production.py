"""The production: the number of nodes and workers, and the program in the worker's place."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CLUSTER = "eu"
CONFIGURATION = """\
cluster = {cluster}

[broker]
url = {broker}

[ring.nodes]
{nodes}

[log]
format = "json"

[metrics]
listen = "off"

[[rule]]
on = "product_updated"
evict = ["product:{{id}}"]
"""


@dataclass(frozen=True)
class Production:
    """The number of players, and the kind of workers."""

    seed: int
    events: int
    nodes: int = 3
    workers: int = 2
    #: Runs the stock way in the worker's place.
    stock: bool = False
    #: Name of a fault that is built into the worker.
    sabotage: str = ""

    def command(self, configuration: Path) -> list[str]:
        options = ["--config", str(configuration)]
        if self.stock:
            return [sys.executable, "-m", "tests.faults.stock", *options]
        if self.sabotage:
            return [sys.executable, "-m", "tests.faults.sabotage", self.sabotage, "worker", *options]
        return [sys.executable, "-m", "invalidator_cli.main", "worker", *options]


def configure(folder: Path, broker: str, nodes: Mapping[str, str]) -> Path:
    """Write the workers' configuration file. ``nodes`` maps labels to addresses."""
    file = folder / f"{CLUSTER}.toml"
    file.touch(mode=0o600)  # the URL holds a password
    # A JSON string is a TOML string.
    lines = "\n".join(f"{label} = {json.dumps(address)}" for label, address in nodes.items())
    file.write_text(CONFIGURATION.format(cluster=json.dumps(CLUSTER), broker=json.dumps(broker), nodes=lines))
    return file
