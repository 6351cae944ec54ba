"""The trial of a mutant: a forked process that has it in the place of a module, and runs the tests.

The process that forks has imported pytest and all libraries, but nothing of the product. No file changes.
"""

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

import pytest

from .cover import ROOT

#: Libraries that take long to import.
_LIBRARIES = (
    *("aio_pika", "aiormq", "pika", "pymemcache", "pylibmc", "mmh3", "msgspec", "cachetools", "prometheus_client"),
    *("click", "rich.console", "rich.table", "rich.progress", "sqlalchemy", "psycopg", "django", "docutils", "httpx"),
    *("hypothesis", "hypothesis.stateful", "pytest_asyncio.plugin", "pytest_timeout", "trustme", "coverage"),
)
#: Bytes of memory that a mutant may take, for one may grow without end.
_MEMORY = 4 << 30


def preload() -> None:
    for name in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # pytest collects garbage several times, and need not look at these


@dataclass
class Trial:
    """A process that tries a mutant."""

    pid: int
    deadline: float

    def verdict(self) -> str | None:
        """Return `killed`, `survived`, `timeout` or `error`, or None while the tests run."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() < self.deadline:
                return None
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return "timeout"
        code = os.waitstatus_to_exitcode(status)
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            return "error"
        return "killed" if code else "survived"


def start(module: str, source: str | None, tests: Sequence[str], *, seconds: float) -> Trial:
    """Fork a process that runs tests with other source for a module, or with none as a control."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = _run(module, source, tests)
        finally:
            os._exit(code)
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)
    return Trial(pid, time.monotonic() + seconds)


def _run(module: str, source: str | None, tests: Sequence[str]) -> int:
    with suppress(PermissionError):
        os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        # Failing examples of a mutant are none of the product's.
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2) if source is not None else (0,):
            os.dup2(quiet, stream)
        os.chdir(ROOT)
        if source is not None:
            sys.meta_path.insert(0, _Mutated(module, source))
        options = ["-x", "-q", "--no-header", "--hypothesis-seed=0", f"--basetemp={folder}/tests"]
        options += [
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-p",
            "no:cov",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        options += ["--assert=plain", "-p", "no:anyio"]  # a third of the time that a trial takes
        return int(pytest.main([*options, *tests]))


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An importer of one module from other source."""

    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        file = ROOT / f"{fullname.replace('.', '/')}.py"
        return importlib.util.spec_from_file_location(fullname, file, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__file__
        exec(compile(self._source, module.__file__, "exec"), module.__dict__)
