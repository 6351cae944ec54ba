"""The errors of this package: one root class, and one class for each meaning, with the exit code of a command.

An error of a library or of the operating system is translated into one of these once, at the edge where it appears.
Every message says what happened, names the thing concerned, and gives the fix.
"""


class InvalidatorError(Exception):
    """Root of all errors raised on purpose here."""

    #: Exit code of a command that ends with this error.
    exit_code = 1


class ConfigurationError(InvalidatorError):
    """Raised when settings, rules or an existing queue's arguments cannot work."""

    exit_code = 78


class RefusedError(InvalidatorError):
    """Raised when the broker answers with a refusal: wrong password, missing vhost, missing permission."""

    exit_code = 77


class UnreachableError(InvalidatorError):
    """Raised when a broker or node does not answer, or gives an answer that cannot be trusted."""

    exit_code = 69


class UnroutableError(UnreachableError):
    """Raised when the broker returned a mandatory message: no queue is bound where it was published."""


class UnconfirmedError(InvalidatorError):
    """Raised when a publish was not confirmed in time. It may or may not have been stored: publish it again."""

    exit_code = 75


class IncompleteError(InvalidatorError):
    """Raised when not every one of many events was confirmed. Positions count from 0.

    ``unconfirmed`` are the positions of events that were sent and may or may not have been stored, ``unsent`` is the
    first position that was not sent, ``cause`` the error. Publish those events again, in order; duplicates do no harm.
    """

    def __init__(self, cause: InvalidatorError, *, unconfirmed: tuple[int, ...], unsent: int) -> None:
        sent = f"{len(unconfirmed)} of the events sent are unconfirmed, those from position {unsent} on are not sent"
        super().__init__(f"{cause}; {sent}")
        self.exit_code = cause.exit_code
        self.cause = cause
        self.unconfirmed = unconfirmed
        self.unsent = unsent


class PoisonError(InvalidatorError):
    """Raised when an event can never be evicted, however often it is tried.

    ``reason`` is one short word for headers and metrics (``not-json``, ``missing-field`` …). The message has the
    details.
    """

    exit_code = 2

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
