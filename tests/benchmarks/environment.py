"""The peers' own virtual environment, made on first use, so that we do not depend on their requirements."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.contestants import PEERS_PYTHON

REQUIREMENTS = Path(__file__).with_name("peers") / "requirements.txt"


def make_environment() -> None:
    """Make .dev/bench-venv, or remake it if the requirements or the Python have changed.

    Exit the program with pip's output if an installation fails.
    """
    folder = PEERS_PYTHON.parents[1]
    stamp, wanted = folder / "stamp", hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print("bench: installing the peers into .dev/bench-venv", flush=True)
    _quietly(sys.executable, "-m", "venv", "--clear", folder)
    _quietly(PEERS_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--requirement", REQUIREMENTS)
    stamp.write_text(wanted)


def _quietly(*command: str | Path) -> None:
    # Without our PYTHONPATH: pip would take this project for installed there, and complain about its requirements.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def versions() -> list[str]:
    """Return requirements with versions, like `celery==5.7.0`."""
    return REQUIREMENTS.read_text().split()
