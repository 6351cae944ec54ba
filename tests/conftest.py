"""Fixtures and options for every test; the servers are in integration/conftest.py, for unit tests run with none."""

import logging
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from invalidator.runtime.logs import LIBRARIES
from tests import order

# No clock decides about a test: a machine that is busy with something else is slow at any moment.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")


def pytest_configure() -> None:
    # A shell that runs the tests in the background ignores Ctrl-C in them, and so would all that they start and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.mark_quick(items)
    order.arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return order.scheduler(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write what the handbook shows to conf/pictures")


@pytest.fixture(autouse=True)
def logs_as_they_come() -> Iterator[None]:
    """Undo what a command that ran in this process has set up."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in ("", *LIBRARIES)}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
