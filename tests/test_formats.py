"""CloudEvents and Debezium's events, in the shapes that their documentation gives, and their keys."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import PoisonError
from invalidator.events.debezium import encoded_columns
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
        ("seen", ["seen:{ce.subject}"]),
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
    def test_base64_data_that_is_not_json_is_poison_where_a_rule_needs_it(self, encoded: Any) -> None:
        with pytest.raises(PoisonError, match="is not JSON, so a rule can use") as caught:
            keys(STRUCTURED | {"data_base64": encoded})
        assert "bad-data" == caught.value.reason
        assert ["seen:17"] == keys(STRUCTURED | {"type": "seen", "data_base64": encoded})

    def test_data_of_another_format_is_poison_where_a_rule_needs_it(self) -> None:
        xml = STRUCTURED | {"datacontenttype": "application/xml", "data": "<id>17</id>"}
        with pytest.raises(PoisonError, match="the data of 'application/xml' is not JSON"):
            keys(xml)
        assert ["seen:17"] == keys(xml | {"type": "seen"})
        assert "<id>17</id>" == read(xml).fields["data"]

    def test_an_optional_field_of_unreadable_data_is_not_taken_for_missing(self) -> None:
        with pytest.raises(PoisonError, match="is not JSON"):
            Rules([("seen", ["{ce.subject}", "{id?}"])]).keys(read(STRUCTURED | {"type": "seen", "data_base64": "?"}))

    @pytest.mark.parametrize("body", [b"<id>17</id>", b"\xff", b'{"id": ', "{}".encode("utf-16"), b"[" * 100_000])
    def test_binary_needs_data_that_is_json_only_where_a_rule_needs_it(self, body: bytes) -> None:
        headers = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
        assert ["seen:17"] == keys(body, headers=headers | {"ce-type": "seen"})
        with pytest.raises(PoisonError):
            keys(body, headers=headers)

    def test_another_version_is_poison_also_where_the_data_cannot_be_read(self) -> None:
        assert "unknown-specversion" == refused(b"<id/>", headers={"ce-specversion": "0.3", "ce-type": "a"}).reason

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

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            ([STRUCTURED, STRUCTURED], None),
            ([STRUCTURED], "application/cloudevents-batch+json"),
            ([], "application/cloudevents-batch+json; charset=utf-8"),
        ],
    )
    def test_a_batch_is_named_as_such(self, body: Any, content_type: str | None) -> None:
        error = refused(body, content_type=content_type)
        assert "batch" == error.reason
        assert f"the body is a batch of {len(body)} CloudEvents: publish each in its own message" == str(error)

    def test_another_list_is_not_a_batch(self) -> None:
        assert "not-an-object" == refused([]).reason == refused([STRUCTURED, {}]).reason


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
            ("debezium:tombstone", b""),
            ("debezium:tombstone", b"null"),
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
        assert "'public.products' was truncated: run invalidator flush" == str(error)

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
        ],
    )
    def test_a_change_without_a_row_is_poison(self, reason: str, body: Any) -> None:
        assert reason == refused(body).reason

    @pytest.mark.parametrize(
        ("body", "reason"), [(b"default", "not-json"), (b"", "not-json"), (b"null", "not-an-object")]
    )
    def test_a_message_with_a_type_is_not_a_tombstone(self, body: bytes, reason: str) -> None:
        assert reason == refused(body, type="product_updated").reason


class TestFlattened:
    """Rows from which ExtractNewRecordState has removed the envelope."""

    RULES = Rules(
        [("debezium:public.products", ["product:{id}", "was:{before.category_id?}", "is:{after.category_id?}"])]
    )

    def keys(self, row: Any) -> list[str]:
        return [key.decode() for key in self.RULES.keys(read(row))]

    @pytest.mark.parametrize(
        ("added", "expected"),
        [
            ({"__op": "u"}, ["product:1004", "is:4"]),
            ({"__op": "r", "__deleted": "false"}, ["product:1004", "is:4"]),
            ({"__op": "d", "__deleted": "true"}, ["product:1004", "was:4"]),
            ({"__deleted": "true"}, ["product:1004", "was:4"]),
            ({"__op": "d"}, ["product:1004", "was:4"]),
            ({}, ["product:1004", "is:4"]),
        ],
    )
    def test_a_row_evicts_deletes_included(self, added: dict[str, str], expected: list[str]) -> None:
        row = AFTER | {"__table": "products", "__schema": "public"} | added
        assert expected == self.keys(row) == self.keys({"schema": {"type": "struct"}, "payload": row})

    @pytest.mark.parametrize(
        ("added", "type"),
        [
            ({"__table": "products", "__db": "inventory"}, "debezium:inventory.products"),
            ({"__table": "products"}, "debezium:products"),
            ({"__table": "products", "__schema": "public", "__db": "shop"}, "debezium:public.products"),
        ],
    )
    def test_the_type_names_the_table_as_far_as_it_is_known(self, added: dict[str, str], type: str) -> None:
        assert type == read(AFTER | added).type

    def test_a_column_called_type_is_not_the_type(self) -> None:
        row = {"id": 1, "type": "shirt", "__op": "u", "__table": "products", "__schema": "public"}
        assert ("debezium:public.products", "shirt") == (read(row).type, read(row).fields["type"])

    def test_a_row_without_its_table_is_poison_that_names_the_setting(self) -> None:
        error = refused(AFTER | {"__op": "u"})
        assert ("no-type", True) == (error.reason, "set add.fields=op,table,schema (or db)" in str(error))
        assert "no-type" == refused(AFTER | {"__deleted": "true"}).reason

    def test_a_truncated_table_is_poison(self) -> None:
        assert "table-truncated" == refused({"__op": "t", "__table": "products"}).reason


DECIMAL = "org.apache.kafka.connect.data.Decimal"
VARIABLE = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"}


class TestSchemas:
    def of_column(self, value: Any, schema: dict[str, Any], row: str = "after") -> Any:
        """Return a column's value as a rule finds it, read by this schema."""
        columns = {"type": "struct", "fields": [{"field": "ID"} | schema, {"field": "x", "type": "string"}, 3, {}]}
        envelope = {"type": "struct", "fields": [{"field": "before"} | columns, {"field": "after"} | columns]}
        body = {"schema": envelope, "payload": change("u", **{row: {"ID": value, "x": "BQ=="}})}
        fields = read(body).fields
        assert "BQ==" == fields["x"]
        return fields["ID"]

    @pytest.mark.parametrize(
        ("encoded", "scale", "expected"),
        [
            ("BQ==", 0, 5),
            ("+w==", 0, -5),
            ("AAE=", 0, 1),
            ("KoU=", 2, "108.85"),
            ("/w==", 2, "-0.01"),
            ("BQ==", 3, "0.005"),
            ("BQ==", -2, 500),
        ],
    )
    @pytest.mark.parametrize("row", ["before", "after"])
    def test_a_decimal_is_the_number_that_it_encodes(self, encoded: str, scale: int, expected: Any, row: str) -> None:
        schema = {"type": "bytes", "name": DECIMAL, "parameters": {"scale": str(scale)}}
        assert expected == self.of_column(encoded, schema, row)
        assert expected == self.of_column({"scale": scale, "value": encoded}, VARIABLE, row)

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("org.apache.kafka.connect.data.Date", 20548, "2026-04-05"),
            ("io.debezium.time.Date", -1, "1969-12-31"),
            ("org.apache.kafka.connect.data.Time", 63060000, "17:31:00"),
            ("io.debezium.time.Time", 63060500, "17:31:00.500000"),
            ("io.debezium.time.MicroTime", 63060000000, "17:31:00"),
            ("io.debezium.time.NanoTime", 63060000000000, "17:31:00"),
            ("org.apache.kafka.connect.data.Timestamp", 1775410260000, "2026-04-05T17:31:00"),
            ("io.debezium.time.Timestamp", 1775410260000, "2026-04-05T17:31:00"),
            ("io.debezium.time.MicroTimestamp", 1775410260000001, "2026-04-05T17:31:00.000001"),
            ("io.debezium.time.NanoTimestamp", 1775410260000001999, "2026-04-05T17:31:00.000001"),
            ("io.debezium.time.ZonedTimestamp", "2026-04-05T17:31:00Z", "2026-04-05T17:31:00Z"),
            ("io.debezium.data.Uuid", "6f0c…", "6f0c…"),
            ("io.debezium.data.Bits", "AQI=", 513),
        ],
    )
    def test_dates_times_and_timestamps_are_read(self, name: str, value: Any, expected: Any) -> None:
        assert expected == self.of_column(value, {"type": "int64", "name": name})

    def test_bytes_are_hexadecimal(self) -> None:
        assert "00ff10" == self.of_column("AP8Q", {"type": "bytes"})

    def test_items_of_a_list_are_read_too(self) -> None:
        item = {"type": "bytes", "name": DECIMAL, "parameters": {"scale": "0"}}
        assert [5, None] == self.of_column(["BQ==", None], {"type": "array", "items": item})

    def test_null_stays_null(self) -> None:
        assert self.of_column(None, {"type": "bytes"}) is None

    @pytest.mark.parametrize(
        ("value", "schema"),
        [
            ("BQ=", {"type": "bytes", "name": DECIMAL, "parameters": {"scale": "0"}}),
            ("BQ==", {"type": "bytes", "name": DECIMAL, "parameters": {"scale": "1000000000"}}),
            ("BQ==", {"type": "bytes", "name": DECIMAL, "parameters": {"scale": "-1000000000"}}),
            ("BQ==", {"type": "bytes", "name": DECIMAL}),
            (5, {"type": "bytes"}),
            ("BQ==", VARIABLE),
            (10**30, {"type": "int64", "name": "io.debezium.time.Timestamp"}),
            ("today", {"type": "int32", "name": "io.debezium.time.Date"}),
        ],
    )
    def test_a_value_that_is_not_what_its_schema_says_is_poison_where_a_rule_needs_it(
        self, value: Any, schema: dict[str, Any]
    ) -> None:
        row = {"ID": self.of_column(value, schema), "code": "a"}
        assert [b"a"] == Rules([("t", ["{code}"])]).keys(Event("t", row))
        with pytest.raises(PoisonError, match="that its schema says") as caught:
            Rules([("t", ["{ID}"])]).keys(Event("t", row))
        assert "wrong-type" == caught.value.reason

    @pytest.mark.parametrize("schema", [None, 3, [], {}, {"type": "struct"}, {"type": "struct", "fields": 3}])
    def test_without_a_usable_schema_the_row_is_read_as_it_is(self, schema: Any) -> None:
        assert "BQ==" == read({"schema": schema, "payload": change("c", None, {"ID": "BQ=="})}).fields["ID"]

    def test_rows_without_an_envelope_are_read_by_their_schema_too(self) -> None:
        column = {"field": "ID", "type": "bytes", "name": DECIMAL, "parameters": {"scale": "0"}}
        row = {"ID": "BQ==", "__table": "products", "__op": "d", "__db": "shop"}
        event = read({"schema": {"type": "struct", "fields": [column]}, "payload": row})
        assert (5, {"ID": 5} | row | {"ID": 5}) == (event.fields["ID"], event.fields["before"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [("BQ==", ["ID"]), ("AOQ=", ["ID"]), ("AQID", []), ("abc-123", []), ("=", []), (5, []), ("a===", [])],
)
def test_a_key_column_that_could_be_an_encoded_number_is_known(value: Any, expected: list[str]) -> None:
    fields = {"ID": value, "other": "BQ=="} if value != "BQ==" else {"ID": value}
    assert expected == encoded_columns("debezium:public.products", fields, [f"product:{value}"])
    assert [] == encoded_columns("product_updated", fields, [f"product:{value}"])


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
