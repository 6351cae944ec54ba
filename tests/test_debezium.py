"""Debezium's messages: changes, flattened rows, and messages about something else."""

from typing import Any

import pytest

from invalidator.events.debezium import encoded_columns
from invalidator.events.event import Event
from invalidator.events.rules import Rules
from tests.foreign import AFTER, BEFORE, MYSQL, POSTGRESQL, change, keys, read, refused


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


@pytest.mark.parametrize(
    ("value", "expected"),
    [("BQ==", ["ID"]), ("AOQ=", ["ID"]), ("AQID", []), ("abc-123", []), ("=", []), (5, []), ("a===", [])],
)
def test_a_key_column_that_could_be_an_encoded_number_is_known(value: Any, expected: list[str]) -> None:
    fields = {"ID": value, "other": "BQ=="} if value != "BQ==" else {"ID": value}
    assert expected == encoded_columns("debezium:public.products", fields, [f"product:{value}"])
    assert [] == encoded_columns("product_updated", fields, [f"product:{value}"])
