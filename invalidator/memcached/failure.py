"""The kinds of failure of a node: set where a failure arises, so that nobody has to read its text."""

from enum import StrEnum

from invalidator.errors import UnreachableError


class Failure(StrEnum):
    """One word for the reason why a node counts as unreachable, as in the metric ``invalidator_node_errors_total``."""

    #: No connection.
    CONNECT = "connect"
    #: Its name has several addresses.
    SEVERAL_MACHINES = "several-machines"
    #: TLS that cannot be trusted, or that one side speaks and the other does not.
    TLS = "tls"
    #: It requires a login, and none is set.
    LOGIN_REQUIRED = "login-required"
    #: It refuses user and password.
    LOGIN_REFUSED = "login-refused"
    #: It has as many connections as it accepts.
    FULL = "full"
    #: It closed the connection.
    CLOSED = "closed"
    #: It gave no answer in time.
    DEADLINE = "deadline"
    #: It gave an answer that cannot be trusted.
    BROKEN = "broken"
    #: It does not speak memcached's meta commands.
    PROTOCOL = "protocol"


class DialError(UnreachableError):
    """Raised when there is no usable connection to a node."""

    def __init__(self, message: str, failure: Failure = Failure.CONNECT) -> None:
        super().__init__(message)
        self.failure = failure
