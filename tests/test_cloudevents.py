"""CloudEvents: structured, binary, both at once, or a batch."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from invalidator.errors import PoisonError
from invalidator.events.event import Event
from invalidator.events.rules import Rules
from tests.foreign import keys, read, refused

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
