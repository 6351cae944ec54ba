"""Faults of an exchange or queue, as the management API describes it, that lose events, dead letters or debts. Pure.

description ─┬─> type, durability and arguments, which only a new declaration changes
             └─> the policy in force, which an operator changes
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from invalidator.broker.topology import NEEDS_NO_LIMIT, Queue, Topology

#: The delivery limit that RabbitMQ 4 gives a quorum queue without one of its own.
DELIVERY_LIMIT_OF_4 = 20
#: Policies that remove messages, or the queue itself, after a time.
BY_THE_CLOCK = ("expires", "message-ttl")
#: Policies that remove the oldest message for a new one, unless the queue refuses new ones, and the count they limit.
BY_THE_NUMBER = {"max-length": "messages", "max-length-bytes": "message_bytes"}
REFUSING = ("reject-publish", "reject-publish-dlx")
DECLARE = "invalidator topology declare"


class Loss(NamedTuple):
    """A way to lose messages, or to keep new ones out, and its fix."""

    text: str
    fix: str
    #: True for a limit that refuses new messages and is not reached yet.
    is_note: bool = False


@dataclass(frozen=True)
class Losses:
    """Finds losses in one cluster's topology on a broker of one major version."""

    topology: Topology
    vhost: str
    major: int

    def of_exchange(self, kind: str, described: Mapping[str, Any]) -> Iterator[Loss]:
        should = {"type": kind, "durable": True, "auto_delete": False, "internal": False}
        if differences := _differences(described, should):
            yield Loss(differences, f"delete it and declare it again ({DECLARE}), or choose another name in [broker]")

    def of_queue(self, queue: Queue, described: Mapping[str, Any]) -> Iterator[Loss]:
        fix = f"delete it and declare it again ({DECLARE}); gaps of before are then not covered"
        if not queue.is_log:
            fix = f"when it is empty, delete it and declare it again ({DECLARE}), or choose another broker.prefix"
        arguments = dict(described.get("arguments") or {})
        if queue.keeps:  # checked together with the policy: a queue made under RabbitMQ 3 has no such argument
            arguments.pop("x-delivery-limit", None)
        has = {key: described.get(key, False) for key in ("durable", "auto_delete", "exclusive")} | arguments
        should = {"durable": True, "auto_delete": False, "exclusive": False} | queue.arguments
        if differences := _differences(has, should | dict.fromkeys(arguments.keys() - should.keys())):
            yield Loss(differences, fix)
        yield from self._of_policy(queue, described)

    def delivery_limit(self, described: Mapping[str, Any]) -> int | None:
        """Return the number of deliveries after which the queue drops a message, or None without such a limit."""
        arguments, policy = (dict(described.get(of) or {}) for of in ("arguments", "effective_policy_definition"))
        both = (arguments.get("x-delivery-limit"), policy.get("delivery-limit"))
        limits = [limit for limit in both if limit is not None]
        if not limits:
            return DELIVERY_LIMIT_OF_4 if self.major >= NEEDS_NO_LIMIT else None
        limit = (max if min(limits) < 0 else min)(limits)  # RabbitMQ 4: "none" (-1) gives way to any limit
        return None if limit < 0 else limit

    def _of_policy(self, queue: Queue, described: Mapping[str, Any]) -> Iterator[Loss]:
        policy = dict(described.get("effective_policy_definition") or {})  # no policy comes as []
        names = [f'"{described[key]}"' for key in ("policy", "operator_policy") if described.get(key)]
        fix = f"remove it from the policy {' or '.join(names)}"
        for key in BY_THE_CLOCK:
            if key in policy:
                yield Loss(f"has {key} {policy[key]} by policy: messages in it are deleted after that time", fix)
        for key in BY_THE_NUMBER:
            if key in policy and (queue.keeps or (_drops_the_oldest(described) and not queue.is_log)):
                yield self._limited(queue, described, key, fix)
        if queue.keeps and (limit := self.delivery_limit(described)) is not None:
            yield Loss(f"has a delivery limit of {limit}: reading a message that often deletes it", self.no_limit())

    def _limited(self, queue: Queue, described: Mapping[str, Any], key: str, fix: str) -> Loss:
        """Return the effect of a limit by policy."""
        policy = described["effective_policy_definition"]
        text = f"has {key} {policy[key]} by policy"
        if _drops_the_oldest(described):
            return Loss(f"{text}: a new message deletes the oldest", fix)
        parking = {self.topology.parked(label) for label in self.topology.labels}
        impossible = "parking is impossible, and nothing is acknowledged" if queue.name in parking else "it is refused"
        is_full = int(described.get(BY_THE_NUMBER[key]) or 0) >= int(policy[key])
        when = "the queue is full" if is_full else "when the queue is full, a new message is refused"
        return Loss(f"{text}: {when}: {impossible}", fix, is_note=not is_full)

    def no_limit(self) -> str:
        """Return how to remove a delivery limit."""
        if self.major < NEEDS_NO_LIMIT:
            return "remove delivery-limit from its policy, or delete the queue when it is empty and declare it again"
        policy = self.topology.keeping_policy(self.vhost)
        words = (policy["name"], policy["pattern"], json.dumps(policy["definition"]))
        return (
            f"rabbitmqctl set_policy -p {shlex.quote(self.vhost)} {' '.join(map(shlex.quote, words))} "
            f"--apply-to {policy['apply-to']} --priority {policy['priority']}"
        )


def _drops_the_oldest(described: Mapping[str, Any]) -> bool:
    """Return True if a full queue drops its oldest message; a policy's overflow comes before the queue's argument."""
    policy, arguments = (dict(described.get(of) or {}) for of in ("effective_policy_definition", "arguments"))
    return policy.get("overflow", arguments.get("x-overflow")) not in REFUSING


def _differences(has: Mapping[str, Any], should: Mapping[str, Any]) -> str:
    different = [name for name in should if has.get(name) != should[name]]
    each = (f"{name} {_shown(has.get(name))} instead of {_shown(should[name])}" for name in different)
    return f"has {', '.join(each)}" if different else ""


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)
