"""What every test may use; the servers are in integration/conftest.py, for unit tests run with none."""

import signal
from collections.abc import Iterator

import pytest
import structlog


def pytest_configure() -> None:
    # A shell that runs the tests in the background ignores Ctrl-C in them, and so would all that they start and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write what the handbook shows to conf/pictures")


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """A command run in this process sets up its logs; the next test must not find them so."""
    yield
    structlog.reset_defaults()
