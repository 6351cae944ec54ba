"""The pages: their commands, taken from the text and run with bash, and their links."""

import functools
import html
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def blocks(text: str) -> list[str]:
    """Return a page's literal blocks, without their indentation."""
    found = re.findall(r"::\n\n((?:    .*\n|\n)+)", text)
    return [re.sub(r"^    ", "", block.rstrip() + "\n", flags=re.MULTILINE) for block in found]


def written(folder: Path) -> set[Path]:
    """Return the files below a folder, but not what Python compiles beside an example that a test imports."""
    return {file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__"}


def run(block: str, folder: Path, environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a block in a folder, up to the first command that fails. Background processes end with it."""
    script = f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{block}"
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def broken_links(page: Path) -> list[str]:
    """Return the relative links and pictures of a page that lead nowhere. Fail if the page does not render."""
    links = re.findall(r'(?:href|src)="([^":]*)"', html.unescape(rendered(page)))
    return [link for link in links if not _leads_somewhere(link, page)]


def _leads_somewhere(link: str, page: Path) -> bool:
    target, _, anchor = link.partition("#")
    there = (page.parent / target).resolve() if target else page
    return there.is_file() and (not anchor or f'id="{anchor}"' in rendered(there))


@functools.cache
def rendered(page: Path) -> str:
    """Return a page as HTML."""
    render = [sys.executable, "-m", "docutils", "--halt=warning", str(page)]
    done = subprocess.run(render, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
