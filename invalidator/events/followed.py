"""Changes that `invalidator follow` publishes, read as the fields of an event. Pure.

    type changed:SCHEMA.TABLE       fields: those of the row, and before, after, op, source, as Debezium's
    type truncated:SCHEMA.TABLE     fields: op and source

The row is the one after the change or, if it was deleted, the one before it.
"""

from typing import Any

from invalidator.errors import PoisonError

CHANGED, TRUNCATED = "changed:", "truncated:"


def is_change(type: str | None) -> bool:
    """Return True for the type of an event that a follower has published."""
    return type is not None and type.startswith((CHANGED, TRUNCATED))


def fields(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a change, those of its row among them.

    Raises:
        PoisonError: missing-field, if there is no row.
    """
    if body.get("op") == "t":
        return body
    row = body.get("after") or body.get("before")
    if not isinstance(row, dict):
        raise PoisonError("missing-field", 'the change has a row neither in "before" nor in "after"')
    return row | body


def truncated_table(type: str) -> str | None:
    """Return the table that an event of this type says was emptied, None for any other type."""
    return type.removeprefix(TRUNCATED) if type.startswith(TRUNCATED) else None


def table_of(type: str) -> str | None:
    """Return the table, "schema.table", that an event of this type is about, None for any other type."""
    return type.partition(":")[2] if is_change(type) else None
