"""Kafka Connect's logical types, read by the schema that comes with a row."""

from typing import Any

import pytest

from invalidator.errors import PoisonError
from invalidator.events.event import Event
from invalidator.events.rules import Rules
from tests.foreign import change, read

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
