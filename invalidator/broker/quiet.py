"""Silence for pika and aiormq on our own connections, because an error or a log line of ours says it once.

An application may use the same libraries itself: their reports on its own connections stay. A context variable, which
the tasks and callbacks of a connection inherit, distinguishes the two. At level DEBUG of the logger ``invalidator``
nothing is silenced.
"""

import logging
from contextvars import ContextVar

LIBRARIES = ("aio_pika", "aiormq", "pika")

_is_ours = ContextVar("invalidator.broker.quiet", default=False)


class Ours:
    """A context whose tasks and callbacks belong to a connection of ours, opened in a `quiet` context."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _is_ours.set(True)

    def __exit__(self, *_: object) -> None:
        _is_ours.reset(self._token)


def quiet() -> Ours:
    """Drop the libraries' log records that are made inside, and by the tasks and callbacks that are started inside."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] in LIBRARIES and isinstance(logger, logging.Logger):
            logger.addFilter(_is_wanted)  # a second time changes nothing
    return Ours()


def _is_wanted(_: logging.LogRecord) -> bool:
    return not _is_ours.get() or logging.getLogger("invalidator").isEnabledFor(logging.DEBUG)
