"""Events of a follower, as the worker's rules read them."""

import json
from typing import Any

import pytest

from invalidator.errors import PoisonError
from invalidator.events.event import Event, decode
from invalidator.events.rules import Rules

TYPE, EMPTIED = "changed:public.products", "truncated:public.products"
SOURCE = {"connector": "invalidator", "schema": "public", "table": "products"}


def body(**fields: Any) -> bytes:
    return json.dumps({"op": "u", "before": None, "after": None, "source": SOURCE} | fields).encode()


def keys(event: Event, *templates: str, on: str = TYPE) -> list[bytes]:
    return Rules([(on, templates)]).keys(event)


def test_a_changed_row_is_addressed_as_a_debezium_event_is() -> None:
    event = decode(body(before={"id": 7, "category": 1}, after={"id": 7, "category": 2}), TYPE)
    templates = ("product:{id}", "category:{category}", "category:{before.category}")
    assert [b"product:7", b"category:2", b"category:1"] == keys(event, *templates)


def test_a_deleted_row_is_the_one_before() -> None:
    assert [b"product:7"] == keys(decode(body(op="d", before={"id": 7}), TYPE), "product:{id}")


def test_a_column_called_type_is_a_column() -> None:
    event = decode(body(after={"id": 7, "type": "shoe"}), TYPE)
    assert (TYPE, [b"kind:shoe"]) == (event.type, keys(event, "kind:{type}"))


def test_a_change_without_a_row_is_poison() -> None:
    with pytest.raises(PoisonError, match=r'^the change has a row neither in "before" nor in "after"$'):
        decode(body(), TYPE)


def test_an_emptied_table_without_a_rule_of_its_own_is_poison_that_names_the_fix() -> None:
    event = decode(body(op="t"), EMPTIED)
    with pytest.raises(
        PoisonError, match=r'invalidator flush, or write a rule on "truncated:public.products"'
    ) as caught:
        keys(event, "product:{id}")
    assert "table-truncated" == caught.value.reason


def test_an_emptied_table_evicts_what_its_rule_names() -> None:
    assert [b"products:all"] == keys(decode(body(op="t"), EMPTIED), "products:all", on=EMPTIED)


def test_an_emptied_table_that_no_rule_is_for_matters_to_nobody() -> None:
    assert [] == keys(decode(body(op="t"), "truncated:public.orders"), "product:{id}")
