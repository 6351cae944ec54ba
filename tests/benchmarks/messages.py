"""Messages as each consumer's own library would write them, encoded once and then numbered."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pamqp import commands

from tests.benchmarks import amqp

EXCHANGE = "product.updates"
#: The placeholder of the event's number in a template, as long as every number.
PLACE = "777777777777"
#: The pattern of the number in any of these bodies: that of the product and of the first of its keys.
FIRST_KEY = re.compile(rb"(\d{12})")


@dataclass(frozen=True)
class Template:
    """The frames of one message."""

    frames: bytes

    def numbered(self, count: int, *, start: int = 0) -> Iterator[bytes]:
        replace, place = self.frames.replace, PLACE.encode()
        return (replace(place, b"%012d" % number) for number in range(start, start + count))


def native(keys: int) -> Template:
    """Return our event with all properties that the publisher sets. The rules make `keys` keys of it."""
    fields: dict[str, Any] = {"type": "product_updated", "id": PLACE, "price": 109.99}
    if keys > 3:
        fields |= {"type": "products_imported", "ids": [f"{PLACE}-{n}" for n in range(keys)]}
    elif keys > 1:
        fields |= {"type": "product_moved"}
    properties = commands.Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        message_id=f"5f0c8a52-19cd-4b0e-9a61-{PLACE}",
        timestamp=datetime.now(UTC),
        message_type=fields["type"],
        app_id="benchmark",
        headers={"timestamp_in_ms": 1767225600000},
    )
    return _template(properties, fields)


def plain() -> Template:
    """Return the same event for consumers that decode the body themselves."""
    properties = commands.Basic.Properties(content_type="application/json", delivery_mode=2)
    return _template(properties, {"type": "product_updated", "id": PLACE, "price": 109.99})


def celery() -> Template:
    """Return a task as Celery 5 sends it (message protocol 2)."""
    id = f"5f0c8a52-19cd-4b0e-9a61-{PLACE}"
    headers: dict[str, Any] = {
        "lang": "py", "task": "evict", "id": id, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": id, "parent_id": None,
        "argsrepr": f"('{PLACE}',)", "kwargsrepr": "{}", "origin": "gen1@shop", "ignore_result": True,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    properties = commands.Basic.Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        delivery_mode=2,
        priority=0,
        correlation_id=id,
    )
    return _template(properties, [[PLACE], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


def dramatiq(queue: str) -> Template:
    """Return a message as Dramatiq sends it."""
    body = {
        "queue_name": queue, "actor_name": "evict", "args": [PLACE], "kwargs": {}, "options": {},
        "message_id": f"5f0c8a52-19cd-4b0e-9a61-{PLACE}", "message_timestamp": 1767225600000,
    }  # fmt: skip
    return _template(commands.Basic.Properties(delivery_mode=2), body)


def _template(properties: commands.Basic.Properties, body: Any) -> Template:
    encoded = json.dumps(body, separators=(",", ":")).encode()
    return Template(amqp.message(properties, encoded, exchange=EXCHANGE))
