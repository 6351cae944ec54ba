"""What in an exchange or queue, as the management API describes it, would lose events, dead letters or debts. Pure.

described ─> type, durability and arguments, which only a new declaration changes
          ─> the policy in force, which an operator changes
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from invalidator.broker.topology import NEEDS_NO_LIMIT, Queue, Topology

#: What RabbitMQ 4 gives a quorum queue that names no limit.
DELIVERY_LIMIT_OF_4 = 20
#: Policies that take messages, or the queue itself, away by the clock.
BY_THE_CLOCK = ("expires", "message-ttl")
#: Policies that take away the oldest message for a new one, unless new ones are refused instead.
BY_THE_NUMBER = ("max-length", "max-length-bytes")
REFUSING = ("reject-publish", "reject-publish-dlx")
DECLARE = "invalidator topology declare"


class Loss(NamedTuple):
    """What is wrong, and the fix."""

    text: str
    fix: str


@dataclass(frozen=True)
class Losses:
    """Looks for losses in one cluster's topology on a broker of one major version."""

    topology: Topology
    vhost: str
    major: int

    def of_exchange(self, kind: str, described: Mapping[str, Any]) -> Iterator[Loss]:
        should = {"type": kind, "durable": True, "auto_delete": False, "internal": False}
        if differences := _differences(described, should):
            yield Loss(differences, f"delete it and declare it again ({DECLARE}), or choose another name in [broker]")

    def of_queue(self, queue: Queue, described: Mapping[str, Any]) -> Iterator[Loss]:
        fix = f"when it is empty, delete it and declare it again ({DECLARE}), or choose another broker.prefix"
        arguments = dict(described.get("arguments") or {})
        if queue.keeps:  # looked at together with the policy: a queue made under RabbitMQ 3 has none
            arguments.pop("x-delivery-limit", None)
        has = {key: described.get(key, False) for key in ("durable", "auto_delete", "exclusive")} | arguments
        should = {"durable": True, "auto_delete": False, "exclusive": False} | queue.arguments
        if differences := _differences(has, should | dict.fromkeys(arguments.keys() - should.keys())):
            yield Loss(differences, fix)
        yield from self._of_policy(queue, described)

    def delivery_limit(self, described: Mapping[str, Any]) -> int | None:
        """After how many deliveries a queue lets go of a message; None where there is no such limit."""
        arguments, policy = (dict(described.get(of) or {}) for of in ("arguments", "effective_policy_definition"))
        both = (arguments.get("x-delivery-limit"), policy.get("delivery-limit"))
        limits = [limit for limit in both if limit is not None]
        if not limits:
            return DELIVERY_LIMIT_OF_4 if self.major >= NEEDS_NO_LIMIT else None
        limit = (max if min(limits) < 0 else min)(limits)  # RabbitMQ 4: "none" (-1) gives way to any limit
        return None if limit < 0 else limit

    def _of_policy(self, queue: Queue, described: Mapping[str, Any]) -> Iterator[Loss]:
        policy = dict(described.get("effective_policy_definition") or {})  # none comes as []
        names = [f'"{described[key]}"' for key in ("policy", "operator_policy") if described.get(key)]
        fix = f"take it out of the policy {' or '.join(names)}"
        for key in BY_THE_CLOCK:
            if key in policy:
                yield Loss(f"has {key} {policy[key]} by policy: what stands in it is taken away by the clock", fix)
        for key in BY_THE_NUMBER:
            if queue.keeps and key in policy and policy.get("overflow") not in REFUSING:
                yield Loss(f"has {key} {policy[key]} by policy: the oldest goes for a new one", fix)
        if queue.keeps and (limit := self.delivery_limit(described)) is not None:
            yield Loss(f"has a delivery limit of {limit}: so many looks delete what they look at", self.no_limit())

    def no_limit(self) -> str:
        """How to take a delivery limit away."""
        if self.major < NEEDS_NO_LIMIT:
            return "take delivery-limit out of its policy, or delete it when it is empty and declare it again"
        policy = self.topology.keeping_policy(self.vhost)
        words = (policy["name"], policy["pattern"], json.dumps(policy["definition"]))
        return (
            f"rabbitmqctl set_policy -p {shlex.quote(self.vhost)} {' '.join(map(shlex.quote, words))} "
            f"--apply-to {policy['apply-to']} --priority {policy['priority']}"
        )


def _differences(has: Mapping[str, Any], should: Mapping[str, Any]) -> str:
    different = [name for name in should if has.get(name) != should[name]]
    told = (f"{name} {_shown(has.get(name))} instead of {_shown(should[name])}" for name in different)
    return f"has {', '.join(told)}" if different else ""


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)
