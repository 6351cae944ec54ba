"""CloudEvents and Debezium's events, in the shapes that their documentation gives, and their keys."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import PoisonError
from invalidator.events.event import Event, decode
from invalidator.events.rules import Rules

#: As in the JSON format of CloudEvents 1.0.2, section 3.2.
STRUCTURED = {
    "specversion": "1.0",
    "type": "com.example.product.updated",
    "source": "/shop",
    "subject": "17",
    "id": "C234-1234-1234",
    "time": "2026-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "datacontenttype": "application/json",
    "data": {"id": 17, "categories": ["3", "4"]},
}
#: As in its AMQP binding, section 3.1.4; the prefix is the test's.
ATTRIBUTES = {"specversion": "1.0", "type": "com.example.product.updated", "id": "1", "source": "/", "subject": "17"}

BEFORE, AFTER = {"id": 1004, "category_id": 3}, {"id": 1004, "category_id": 4}
POSTGRESQL: dict[str, Any] = {
    "version": "2.7.0.Final",
    "connector": "postgresql",
    "name": "shop",
    "ts_ms": 1559033904863,
    "snapshot": "false",
    "db": "shop",
    "schema": "public",
    "table": "products",
    "txId": 556,
    "lsn": 24023128,
}
MYSQL: dict[str, Any] = {
    "version": "2.7.0.Final",
    "connector": "mysql",
    "name": "dbserver1",
    "snapshot": "false",
    "db": "inventory",
    "table": "products",
    "server_id": 223344,
    "gtid": None,
    "file": "mysql-bin.000003",
    "pos": 484,
}

RULES = Rules(
    [
        ("com.example.product.updated", ["product:{id}", "category:{categories?}:listing", "seen:{ce.subject?}"]),
        (
            "debezium:public.products",
            ["product:{id}", "category:{before.category_id?}:listing", "category:{after.category_id?}:listing"],
        ),
        ("debezium:inventory.products", ["product:{before.id?}", "product:{after.id?}", "op:{op}:{source.connector}"]),
    ]
)


def change(op: str, before: Any = None, after: Any = None, *, source: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "source": POSTGRESQL if source is None else source,
        "op": op,
        "ts_ms": 1559033904961,
        "transaction": None,
    }


def read(body: Any, **properties: Any) -> Event:
    return decode(body if isinstance(body, bytes) else json.dumps(body).encode(), **properties)


def keys(body: Any, **properties: Any) -> list[str]:
    return [key.decode() for key in RULES.keys(read(body, **properties))]


def refused(body: Any, **properties: Any) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        read(body, **properties)
    return caught.value


class TestCloudEvents:
    def test_structured_is_named_by_its_type_and_filled_in_from_its_data_and_attributes(self) -> None:
        assert ["product:17", "category:3:listing", "category:4:listing", "seen:17"] == keys(STRUCTURED)

    def test_the_property_may_repeat_the_type(self) -> None:
        assert read(STRUCTURED) == read(STRUCTURED, type="com.example.product.updated")

    @pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "ce_"])
    def test_binary_has_its_attributes_in_headers_and_its_data_in_the_body(self, prefix: str) -> None:
        headers = {prefix + name: value for name, value in ATTRIBUTES.items()} | {"traceparent": "00-0-0-00"}
        assert ["product:17", "category:5:listing", "seen:17"] == keys({"id": 17, "categories": 5}, headers=headers)

    def test_binary_is_not_taken_for_a_native_event_whose_data_has_a_type_of_its_own(self) -> None:
        headers = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
        assert read({"type": "shirt", "id": 17}, headers=headers).type == "com.example.product.updated"

    @pytest.mark.parametrize(
        ("content_type", "expected"),
        [
            ("application/cloudevents+json; charset=utf-8", ["product:42"]),
            ("Application/CloudEvents+JSON", ["product:42"]),
            ("application/json", ["product:A234-1234-1234"]),
            (None, ["product:A234-1234-1234"]),
        ],
    )
    def test_the_content_type_decides_about_an_event_that_is_structured_and_binary(
        self, content_type: str | None, expected: list[str]
    ) -> None:
        event = {"specversion": "1.0", "type": "com.example.product.updated", "source": "/", "id": "A234-1234-1234"}
        headers = {f"cloudEvents:{name}": value for name, value in event.items()}
        assert expected == keys(event | {"data": {"id": 42}}, headers=headers, content_type=content_type)

    @pytest.mark.parametrize("body", [b"", b"null"])
    def test_binary_needs_no_body(self, body: bytes) -> None:
        headers = {f"cloudEvents:{name}": value for name, value in ATTRIBUTES.items()}
        assert {"ce": ATTRIBUTES} == read(body, headers=headers).fields

    def test_attributes_of_other_amqp_types_become_text(self) -> None:
        headers = {"ce-specversion": "1.0", "ce-type": "t", "ce-n": 5, "ce-time": datetime(2026, 4, 5, tzinfo=UTC)}
        found = read({}, headers=headers).fields["ce"]
        assert (5, "2026-04-05 00:00:00+00:00") == (found["n"], found["time"])

    def test_similar_headers_leave_an_event_native(self) -> None:
        assert Event("a", {"type": "a"}) == read({"type": "a"}, headers={"x-specversion": "1.0", "ce-type": "b"})

    @pytest.mark.parametrize("data", ["text", ["17", "18"], 17])
    def test_data_that_is_not_an_object_is_the_field_data(self, data: Any) -> None:
        assert data == read(STRUCTURED | {"data": data}).fields["data"]

    def test_data_may_be_missing_or_null(self) -> None:
        without = {name: value for name, value in STRUCTURED.items() if name != "data"}
        assert {"ce": without} == read(without).fields == read(without | {"data": None}).fields

    def test_base64_data_is_read_where_it_is_json(self) -> None:
        without = {name: value for name, value in STRUCTURED.items() if name != "data"}
        encoded = base64.b64encode(b'{"id": 18}').decode()
        assert ["product:18", "seen:17"] == keys(without | {"data_base64": encoded})

    @pytest.mark.parametrize("encoded", ["not base64!", "PHhtbC8+", 17, base64.b64encode(b"[" * 10**5).decode()])
    def test_base64_data_that_is_not_json_is_poison(self, encoded: Any) -> None:
        assert "bad-data" == refused(STRUCTURED | {"data_base64": encoded}).reason

    @pytest.mark.parametrize("version", ["0.3", "1.1", 1, None, {"a": "b" * 500}])
    def test_another_version_is_poison(self, version: Any) -> None:
        error = refused(STRUCTURED | {"specversion": version})
        assert ("unknown-specversion", True) == (error.reason, len(str(error)) < 200)

    def test_without_a_type_it_is_poison_unless_the_property_has_it(self) -> None:
        untyped = {name: value for name, value in STRUCTURED.items() if name != "type"}
        assert "no-type" == refused(untyped).reason
        assert read(untyped, type="a").type == "a"

    def test_another_type_in_the_property_is_poison(self) -> None:
        assert "type-mismatch" == refused(STRUCTURED, type="product_updated").reason

    def test_a_type_that_is_not_a_string_is_poison(self) -> None:
        assert "wrong-type" == refused({}, headers={"ce-specversion": "1.0", "ce-type": 7}).reason

    def test_a_batch_is_poison(self) -> None:
        assert "not-an-object" == refused([STRUCTURED, STRUCTURED]).reason


class TestDebezium:
    @pytest.mark.parametrize("with_schema", [False, True])
    @pytest.mark.parametrize(
        ("op", "before", "after", "expected"),
        [
            ("c", None, AFTER, ["product:1004", "category:4:listing"]),
            ("u", BEFORE, AFTER, ["product:1004", "category:3:listing", "category:4:listing"]),
            ("u", None, AFTER, ["product:1004", "category:4:listing"]),
            ("d", BEFORE, None, ["product:1004", "category:3:listing"]),
            ("r", None, AFTER, ["product:1004", "category:4:listing"]),
        ],
    )
    def test_a_change_evicts_what_the_row_was_and_is(
        self, op: str, before: Any, after: Any, expected: list[str], with_schema: bool
    ) -> None:
        body = change(op, before, after)
        if with_schema:
            body = {"schema": {"type": "struct", "name": "shop.public.products.Envelope"}, "payload": body}
        assert expected == keys(body)

    def test_without_a_schema_of_the_database_the_type_names_the_database(self) -> None:
        body = change("d", BEFORE, None, source=MYSQL)
        assert ["product:1004", "op:d:mysql"] == keys(body)

    def test_columns_that_are_called_like_the_envelope_are_found_in_the_row(self) -> None:
        body = change("c", None, {"id": 1, "op": "sale", "source": "web"})
        assert ("c", "sale") == (read(body).fields["op"], read(body).fields["after"]["op"])

    def test_a_type_in_the_property_makes_it_an_event_of_that_type(self) -> None:
        assert Event("product_row", change("c", None, AFTER)) == read(change("c", None, AFTER), type="product_row")

    @pytest.mark.parametrize(
        ("type", "body"),
        [
            ("debezium:tombstone", b"default"),
            ("debezium:tombstone", {"schema": None, "payload": None}),
            ("debezium:heartbeat", {"ts_ms": 1559033904961}),
            ("debezium:heartbeat", {"schema": {}, "payload": {"ts_ms": 1559033904961}}),
            ("debezium:transaction", {"status": "BEGIN", "id": "571:53195829", "ts_ms": 1, "event_count": None}),
            ("debezium:schema-change", {"source": MYSQL, "databaseName": "inventory", "ddl": "ALTER TABLE products"}),
            ("debezium:message", {"op": "m", "source": POSTGRESQL | {"table": ""}, "message": {"prefix": "x"}}),
        ],
    )
    def test_messages_about_other_things_than_rows_are_not_poison_and_evict_nothing(self, type: str, body: Any) -> None:
        assert type == read(body).type
        assert [] == keys(body)

    def test_a_truncated_table_is_poison_that_names_the_fix(self) -> None:
        error = refused(change("t"))
        assert "table-truncated" == error.reason
        assert "'public'.'products' was truncated: run invalidator flush" == str(error)

    @pytest.mark.parametrize(
        ("reason", "body"),
        [
            ("missing-field", change("u")),
            ("missing-field", change("u", None, AFTER, source={"connector": "mongodb", "collection": "products"})),
            ("wrong-type", change("u", None, '{"_id": 1}')),
            ("wrong-type", change("u", [1], AFTER)),
            ("no-type", change("u", None, AFTER) | {"source": "shop"}),
            ("no-type", {"schema": {}, "payload": [1]}),
            ("no-type", {"schema": {}, "payload": AFTER}),
            ("not-json", b"defaults"),
            ("not-json", b""),
        ],
    )
    def test_a_change_without_a_row_is_poison(self, reason: str, body: Any) -> None:
        assert reason == refused(body).reason

    def test_a_tombstone_has_no_type_of_its_own(self) -> None:
        assert "not-json" == refused(b"default", type="product_updated").reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CE_NAMES = ["specversion", "type", "data", "data_base64", "ce"]
DEBEZIUM_NAMES = ["schema", "payload", "before", "after", "op", "source", "ts_ms"]
FOREIGN = st.recursive(
    st.dictionaries(
        st.sampled_from(CE_NAMES + DEBEZIUM_NAMES), JSON | st.sampled_from(["1.0", "t", "d", POSTGRESQL]), max_size=6
    ),
    lambda inner: st.fixed_dictionaries({"schema": JSON, "payload": inner}),
    max_leaves=3,
)
HEADERS = st.dictionaries(
    st.sampled_from(["ce-specversion", "cloudEvents:type", "ce-type", "x"]) | st.text(),
    st.just("1.0") | st.integers() | st.binary() | st.none() | st.datetimes(),
)


@given(FOREIGN, st.none() | HEADERS, st.none() | st.text())
def test_whatever_is_sent_is_an_event_or_poison(body: Any, headers: Any, type: str | None) -> None:
    try:
        event = read(body, headers=headers, type=type)
    except PoisonError as error:
        assert len(str(error)) < 1000
    else:
        assert event.type
