"""The handbook's table of messages: every row holds for samples of it, and every reason is in it."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pamqp import commands, header

from invalidator.assemble import rules_of, type_source_of
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.settings import EventSettings, LimitSettings, RuleSettings, Settings
from invalidator.worker.planner import Plan, Planner

HANDBOOK = Path(__file__).parent.parent / "conf" / "README.rst"

SETTINGS = Settings(
    rule=[
        RuleSettings(on="product_updated", evict=["product:{id}"]),
        RuleSettings(on="debezium:public.products", evict=["product:{id}"]),
        RuleSettings(on="of.a.header", evict=["product:{id}"]),
        RuleSettings(on="of.a.field", evict=["product:{id}"]),
    ],
    limits=LimitSettings(body_bytes=1_000_000, event_keys=10),
    events=EventSettings(type_header="__TypeId__", type_field="messageType"),
)
PLANNER = Planner(rules_of(SETTINGS), body_bytes=SETTINGS.limits.body_bytes, source=type_source_of(SETTINGS))

CLOUD = {"specversion": "1.0", "type": "product_updated", "source": "/", "id": "1"}
BINARY = {f"cloudEvents:{name}": value for name, value in CLOUD.items()}
TABLE = {"schema": "public", "table": "products"}
CHANGE = {"before": None, "after": {"id": 1}, "op": "u", "source": TABLE}


def event(**fields: Any) -> dict[str, Any]:
    return {"type": "product_updated"} | fields


#: Start of a row -> messages, each a body, and properties where it needs some.
SAMPLES: dict[str, list[Any]] = {
    "JSON object with a type": [event(id=1), ({"id": 1}, {"message_type": "product_updated"})],
    "JSON object whose type is in": [
        ({"id": 1, "type": "shirt"}, {"headers": {"__TypeId__": "of.a.header"}}),
        {"id": 1, "messageType": ["of.a.field"]},
    ],
    "CloudEvent 1.0": [
        CLOUD | {"data": {"id": 1}},
        ({"id": 1}, {"headers": BINARY}),
        (CLOUD | {"data": {"id": 1}}, {"headers": BINARY, "content_type": "application/cloudevents+json"}),
    ],
    "Debezium change event": [
        CHANGE,
        {"schema": {"type": "struct"}, "payload": CHANGE},
        {"id": 1, "__op": "u", "__table": "products", "__schema": "public"},
    ],
    "``cache_evict``": [{"type": "cache_evict", "keys": ["product:1"]}],
    "An event of a type that no rule names": [{"type": "other"}, CLOUD | {"type": "other"}],
    "Debezium tombstone": [b"", b"null", b"default", {"schema": None, "payload": None}],
    "Debezium heartbeat": [
        {"ts_ms": 1},
        {"status": "END", "id": "1", "event_count": 1},
        {"databaseName": "shop", "ddl": "ALTER TABLE products"},
        {"op": "m", "source": {}},
    ],
    "A truncated table": [CHANGE | {"op": "t"}, {"__op": "t", "__table": "products"}],
    "A Debezium change without a table": [CHANGE | {"source": {}}, CHANGE | {"after": None}, CHANGE | {"after": "{}"}],
    "A flattened row without": [{"id": 1, "__op": "u"}, {"id": 1, "__deleted": "true"}],
    "A CloudEvent of another version": [CLOUD | {"specversion": "0.3"}],
    "A CloudEvent of whose data": [
        CLOUD | {"data_base64": "?"},
        CLOUD | {"datacontenttype": "application/xml", "data": "<id>1</id>"},
        (b"<id>1</id>", {"headers": BINARY}),
    ],
    "A batch of CloudEvents": [[CLOUD, CLOUD], ([], {"content_type": "application/cloudevents-batch+json"})],
    "UTF-16": [
        json.dumps(event(id=1)).encode("utf-16"),
        gzip.compress(b"{}"),
        (event(id=1), {"content_encoding": "gzip"}),
    ],
    "A body that is not UTF-8 JSON": [b"product 1 changed", (b"", {"message_type": "a"}), b'{"a": "\xff"}'],
    "JSON that is not an object": [[1], b"17", (b"null", {"message_type": "a"})],
    "No type": [{"id": 1}, {"type": 17}, (event(id=1), {"message_type": "other"})],
    "A field that a rule needs is missing": [event(), event(id=None)],
    "A field that a rule needs is neither": [event(id=4.0), event(id=True), event(id={})],
    "A field that a rule needs is empty": [event(id=""), event(id="a b"), event(id="x" * 250)],
    "Too large": [event(id="x" * 1_000_000), b'{"type": "a", "x": ' + b"[" * 10_000, event(id=list(range(11)))],
}


def rows() -> dict[str, str]:
    """Return the table: message -> what a worker does."""
    section = HANDBOOK.read_text().partition("Which messages are read\n---")[2]
    bar, _, rest = section.partition("\n\n")[2].partition("\n")
    lines = rest.split(bar)[1].strip("\n").split("\n")
    width = bar.index(" ")
    found: list[tuple[str, str]] = []
    for line in lines:
        left, right = line[:width].strip(), line[width:].strip()
        # A row goes on where its message or its outcome does: an outcome starts with a verb, or with "dead letter".
        if re.match(r"applies|evicts|acknowledges|dead letter", right):
            found.append((left, right))
        else:
            found[-1] = f"{found[-1][0]} {left}".strip(), f"{found[-1][1]} {right}".strip()
    return dict(found)


ROWS = rows()


def planned(sample: Any) -> Plan[Any]:
    body, properties = sample if isinstance(sample, tuple) else (sample, {})
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    content = header.ContentHeader(body_size=len(text), properties=commands.Basic.Properties(**properties))
    return PLANNER.plan([Delivery(bytes(11), content.marshal()[FLAGS_AT:], text)])


def outcome(plan: Plan[Any]) -> str:
    counted = {"unmatched": plan.unmatched, "tombstone": plan.tombstones, "notice": plan.notices}
    found = [error.reason for _, error in plan.poison] + [name for name, count in counted.items() if count]
    if plan.keys == [b"product:1"]:
        found.append("evicted")
    [name] = found
    return name


def promised(what: str) -> set[str]:
    """Return the outcomes that a row names; of one that names none, "evicted"."""
    if what.startswith(("applies", "evicts")):
        return {"evicted"}
    return set(re.findall(r"``([a-z0-9-]+)``", what))


def test_every_row_has_samples() -> None:
    assert [1] * len(SAMPLES) == [sum(row.startswith(start) for row in ROWS) for start in SAMPLES]
    assert len(ROWS) == len(SAMPLES)


@pytest.mark.parametrize("start", SAMPLES)
def test_a_worker_does_with_each_message_what_the_handbook_says(start: str) -> None:
    [what] = [what for row, what in ROWS.items() if row.startswith(start)]
    assert promised(what) == {outcome(planned(sample)) for sample in SAMPLES[start]}


def test_every_reason_for_a_dead_letter_is_in_the_table() -> None:
    source = "".join(path.read_text() for path in Path(HANDBOOK.parents[1], "invalidator", "events").glob("*.py"))
    raised = set(re.findall(r'PoisonError\(\s*"([a-z0-9-]+)"', source))
    assert raised == set().union(*(promised(what) for what in ROWS.values() if what.startswith("dead letter")))
