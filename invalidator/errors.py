"""What can go wrong, by meaning: one root, one class a meaning, each with the exit code it ends a command with.

A foreign error (msgspec's, aio-pika's, the operating system's) is translated into one of these once, at the edge
where it appears. Every message says what happened, to what, and the fix.
"""


class InvalidatorError(Exception):
    """Root of all errors raised on purpose here."""

    #: What a command exits with when this error ends it.
    exit_code = 1


class ConfigurationError(InvalidatorError):
    """Raised when settings, rules or an existing queue's arguments cannot work as they stand."""

    exit_code = 78


class RefusedError(InvalidatorError):
    """Raised when the broker answers and says no: wrong password, missing vhost, missing permission."""

    exit_code = 77


class UnreachableError(InvalidatorError):
    """Raised when a broker or node does not answer, or answers nothing that can be trusted."""

    exit_code = 69


class UnroutableError(UnreachableError):
    """Raised when the broker returned a mandatory message: no queue is bound where it was published."""


class UnconfirmedError(InvalidatorError):
    """Raised when a publish was not confirmed in time: it may or may not have gone out; publish it again."""

    exit_code = 75


class PoisonError(InvalidatorError):
    """Raised when an event can never be evicted, however often it is tried.

    ``reason`` is one short word for headers and metrics (``not-json``, ``missing-field`` …); the message says the rest.
    """

    exit_code = 2

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
