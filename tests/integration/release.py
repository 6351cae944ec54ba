"""An sdist and a wheel of the project, built as `dev release` does, but without a network."""

import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".dev", ".*_cache", "__pycache__", "*.egg-info", "build", "dist")


def sdist(folder: Path) -> Path:
    """Build an sdist, unpack it into `folder`, and return where it is."""
    # From a copy, because setuptools writes beside the sources, and tests run side by side.
    copy = folder / "copy"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    python("setup.py -q sdist --dist-dir", str(folder), cwd=copy)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        # Debian 12's Python 3.11.2 has no `filter`, and from 3.12 on there is a warning without it.
        unpack: Any = partial(tar.extractall, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall
        unpack(folder)
    return folder / archive.name.removesuffix(".tar.gz")


def wheel(source: Path) -> Path:
    """Build a wheel from an unpacked sdist, beside it."""
    folder = source.parent
    python("-m pip wheel --no-deps --no-build-isolation --wheel-dir", str(folder), str(source), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def python(command: str, *arguments: str, cwd: Path) -> None:
    """Run Python, and show its output if it fails."""
    run = [sys.executable, *command.split(), *arguments]
    done = subprocess.run(run, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
