"""The commands of the README and the handbook, taken from the text and run with bash."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path


def blocks(text: str) -> list[str]:
    """Return a page's literal blocks, without their indentation."""
    found = re.findall(r"::\n\n((?:    .*\n|\n)+)", text)
    return [re.sub(r"^    ", "", block.rstrip() + "\n", flags=re.MULTILINE) for block in found]


def run(block: str, folder: Path, environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a block in a folder, up to the first command that fails. Background processes end with it."""
    script = f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{block}"
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=50, check=False
    )
