"""`track`: an event in the outbox for each row that Django's ORM writes.

track ─> _TRACKED, by table
a compiler executes an INSERT, UPDATE or DELETE (`compilers`) ─> rows ─> append, in the same transaction
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connections, models

from invalidator.app.publish.message import message
from invalidator.errors import ConfigurationError


class Tracking(NamedTuple):
    """One call of `track`: the type of its events and the fields, those of the primary key first."""

    type: str
    fields: tuple["models.Field[Any, Any]", ...]


#: Table -> what is tracked there.
_TRACKED: dict[str, list[Tracking]] = {}


def track(model: type[models.Model], event_type: str, *fields: str) -> None:
    """Append an event to the outbox for each row of `model` that the ORM inserts, updates or deletes.

    An event has these fields, by their column's attribute (``category_id``), and always the primary key, which is the
    entity. It has the values after the change, and of a deleted row those before. ``INVALIDATOR_APP_ID`` in Django's
    settings names the application in events.

    Raises:
        ConfigurationError: the model has no such field in its table.
    """
    meta = model._meta.concrete_model._meta  # noqa: SLF001  Django's documented name
    known = {name: field for field in meta.local_concrete_fields for name in (field.attname, field.name)}
    for name in fields:
        if name not in known:
            raise ConfigurationError(f'{model.__name__} has no field "{name}" in {meta.db_table}')
    chosen = dict.fromkeys([meta.pk, *(known[name] for name in fields)])
    _TRACKED.setdefault(meta.db_table, []).append(Tracking(event_type, tuple(chosen)))


def tracked(table: str) -> "list[Tracking]":
    return _TRACKED.get(table, [])


def append(using: str, tracking: Tracking, rows: Iterable[Sequence[Any]]) -> None:
    """Append an event for each row, on Django's connection of this name."""
    from invalidator.app.django.models import OutboxEvent  # noqa: PLC0415  once the apps are ready

    app_id = getattr(settings, "INVALIDATOR_APP_ID", "")
    names = [field.attname for field in tracking.fields]
    events = []
    for row in rows:
        made = message(tracking.type, dict(zip(names, row, strict=True)), app_id=app_id)
        events.append(
            OutboxEvent(
                entity=str(row[0]),
                type=made.type,
                body=made.body,
                message_id=made.id,
                time=made.time,
                app_id=made.app_id,
            )
        )
    if events:
        OutboxEvent.objects.using(using).bulk_create(events, batch_size=1000)
        if connections[using].vendor == "postgresql":
            with connections[using].cursor() as cursor:
                cursor.execute("SELECT pg_notify('invalidator_outbox', '')")  # wakes relays, at the commit
