"""The tests that reach each line of the product, and their durations: from one run of the unit tests."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parents[2]
DATA, DURATIONS, SOURCES = "coverage", "durations.json", "sources.json"
#: Tests that reach no module whose guards matter.
ELSEWHERE = ("integration", "test_prose.py", "test_ledger.py", "test_mutants.py", "test_conf.py", "test_handbook.py")


class Cover:
    """Line -> tests, the quickest first."""

    def __init__(self, folder: Path) -> None:
        self._data = coverage.CoverageData(str(folder / DATA))
        self._data.read()
        self._durations: dict[str, float] = json.loads((folder / DURATIONS).read_text())

    def tests(self, file: Path, lines: Iterable[int] | None = None) -> list[str]:
        """Return the tests that reach any of these lines, by default any line of the file."""
        by_line = self._data.contexts_by_lineno(str(file))
        reached = {context for line in (by_line if lines is None else lines) for context in by_line.get(line, ())}
        tests = {context.rpartition("|")[0] for context in reached} & self._durations.keys()
        return sorted(tests, key=lambda test: (self._durations[test], test))


def is_current(folder: Path) -> bool:
    """Return True if the product has not changed since it was measured: line numbers would be other ones."""
    known = folder / SOURCES
    return known.exists() and json.loads(known.read_text()) == _sources()


def _sources() -> dict[str, str]:
    files = (ROOT / "invalidator").rglob("*.py")
    return {str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def measure(folder: Path, tests: Sequence[str]) -> None:
    """Run tests and write the lines that they reach. A test that fails is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCES).unlink(missing_ok=True)
    sources = _sources()
    command = [sys.executable, "-m", "pytest", "-q", "--numprocesses=2", "-p", __name__, *tests]
    command += ["--cov=invalidator", "--cov-context=test", "--cov-report="]
    command += [f"--ignore=tests/{name}" for name in ELSEWHERE]
    environ = os.environ | {"COVERAGE_FILE": str(folder / DATA), "MUTANTS_DURATIONS": str(folder / DURATIONS)}
    status = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(status)
    (folder / SOURCES).write_text(json.dumps(sources))


class _Recorder:
    """A plugin of pytest that writes durations down."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._durations: dict[str, float] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._durations[report.nodeid] = self._durations.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        passed = {test: seconds for test, seconds in self._durations.items() if test not in self._failed}
        self._file.write_text(json.dumps(passed))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(Path(os.environ["MUTANTS_DURATIONS"])))
