"""The sentences for the ways in which publishing can fail, one wording each. `Attempts` has those for connecting."""

from invalidator.errors import RefusedError, UnconfirmedError, UnreachableError, UnroutableError

ALARMS = "see rabbitmq-diagnostics alarms"


class AlarmError(UnconfirmedError):
    """Raised when the broker takes no message of anybody, because it is short of memory or disk."""


def no_answer_in_time() -> UnreachableError:
    return UnreachableError("no answer in time")


def refuses_publishing(exchange: str, reason: str) -> RefusedError:
    return RefusedError(f'the broker refuses publishing to "{exchange}": {reason}; see rabbitmqctl set_permissions')


def no_queue_is_bound(exchange: str, routing_key: str = "") -> UnroutableError:
    where = f'exchange "{exchange}"' if exchange else f'name "{routing_key}"'
    return UnroutableError(f"no queue is bound to the {where}: nothing stored the message")


def would_not_store() -> UnconfirmedError:
    return UnconfirmedError("the broker would not store the message (a full queue, or one without a leader?)")


def did_not_confirm(seconds: float, doing: str) -> UnconfirmedError:
    return UnconfirmedError(f"the broker did not confirm {doing} within {seconds:.2g} s: an alarm? {ALARMS}")


def is_in_an_alarm() -> AlarmError:
    return AlarmError(f"the broker takes no messages while it is in an alarm: {ALARMS}")


def may_have_gone_out(lost: UnreachableError) -> UnconfirmedError:
    return UnconfirmedError(f"{lost}; it may have gone out, publish it again")
