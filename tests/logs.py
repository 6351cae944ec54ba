"""The log lines of a test, as dictionaries."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from invalidator.runtime.logs import Line


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Line):
            level = record.levelname.lower()
            self.lines.append({"event": record.msg.event, "log_level": level} | record.msg.fields)


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Yield the list of our lines, of every level, as they are logged: event, log_level and fields."""
    keeper, logger = _Keeper(), logging.getLogger("invalidator")
    level = logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.DEBUG)
    try:
        yield keeper.lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(keeper)
