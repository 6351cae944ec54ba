"""What every test may use; the servers are in integration/conftest.py, for unit tests run with none."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write what the handbook shows to conf/pictures")
