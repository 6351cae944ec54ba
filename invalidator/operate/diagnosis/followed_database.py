"""Checking the database that `invalidator follow` reads: server, user, slot, publication, and each table of the rules.

Nothing is changed.
"""

from collections.abc import Iterator
from typing import Any

import psycopg

from invalidator.errors import (
    ConfigurationError,
    InvalidatorError,
    RefusedError,
    UnconfirmedError,
    UnreachableError,
)
from invalidator.events.followed import CHANGED, table_of
from invalidator.events.rules import KEY_BYTES
from invalidator.events.templates import compile_template
from invalidator.follow import slot
from invalidator.follow.setup import database, no_identity, tables
from invalidator.follow.tables import Table, tables_of
from invalidator.operate.findings import Finding, failed, ok, wrong
from invalidator.postgres.connection import fetch
from invalidator.settings import FollowSettings, Settings

WHAT = "follow"
CREATE = "invalidator follow --create, as the owner of the tables"
#: Bytes of log behind which a follower counts as late, as in its alert.
LATE = 256 * 1024 * 1024
#: Fields of a change that are no columns.
_NO_COLUMNS = {"op", "source"}


async def check_follow(settings: Settings) -> list[Finding]:
    """Return the findings about the followed database, none if no `follow.url` is set."""
    if settings.follow.url is None:
        return []
    try:
        async with database(settings) as connection:
            return [
                *await _server(connection),
                *await _slot(connection, settings.follow),
                *await _tables(connection, settings),
            ]
    except InvalidatorError as error:
        return [failed(WHAT, error)]


async def _server(connection: "psycopg.AsyncConnection[Any]") -> list[Finding]:
    ((version, level, is_standby, may_replicate, user),) = await fetch(
        connection,
        "SELECT current_setting('server_version'), current_setting('wal_level'), pg_is_in_recovery(),"
        " (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), current_user",
    )
    found = []
    if is_standby:
        text = "follow.url is a standby, which cannot tell what new reads of the primary see"
        found.append(wrong(WHAT, text, "name the primary there", meaning=ConfigurationError))
    if level != "logical":
        fix = "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL"
        found.append(wrong(WHAT, f"the server's wal_level is {level}", fix, meaning=ConfigurationError))
    if not may_replicate:
        fix = f'ALTER ROLE "{user}" REPLICATION'
        found.append(wrong(WHAT, f"{user} may not read the server's log", fix, meaning=RefusedError))
    return found or [ok(WHAT, f"PostgreSQL {version}, user {user} may read its log")]


async def _slot(connection: "psycopg.AsyncConnection[Any]", follow: FollowSettings) -> list[Finding]:
    state = await slot.inspect(connection, follow.slot)
    if state is None:
        return [wrong(WHAT, f"there is no slot {follow.slot}", CREATE, meaning=ConfigurationError)]
    ((limit,),) = await fetch(connection, "SHOW max_slot_wal_keep_size")
    found = [_place(follow.slot, state)]
    if limit == "-1":
        text = "while nobody follows, the server keeps its log until the disk is full (max_slot_wal_keep_size = -1)"
        fix = "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB', then SELECT pg_reload_conf(): a lost slot is a gap"
        found.append(Finding("note", WHAT, text, fix))
    return [*found, *await _failover(connection, follow.slot)]


async def _failover(connection: "psycopg.AsyncConnection[Any]", name: str) -> list[Finding]:
    """Return what keeps the slot from going on after a failover, as far as the primary shows it."""
    if connection.info.server_version < slot.HAS_FAILOVER:
        return []
    ((is_kept, waits_for, standbys),) = await fetch(
        connection,
        "SELECT (SELECT failover FROM pg_replication_slots WHERE slot_name = %s),"
        " current_setting('synchronized_standby_slots'),"
        " array(SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary)",
        name,
    )
    if not standbys:
        return []
    if not is_kept:
        text = f"no standby keeps slot {name} (failover = false), so a failover will be a gap"
        psql = f"psql 'dbname={connection.info.dbname} replication=database'"
        fix = f"stop the follower, then: {psql} -c 'ALTER_REPLICATION_SLOT {name} (FAILOVER true)'"
        return [Finding("note", WHAT, text, fix)]
    if not waits_for:
        text = f"changes are followed before a standby has them ({', '.join(standbys)}), so a failover may be a gap"
        fix = f"ALTER SYSTEM SET synchronized_standby_slots = '{standbys[0]}', then SELECT pg_reload_conf()"
        return [Finding("note", WHAT, text, fix)]
    return []


def _place(name: str, state: slot.SlotState) -> Finding:
    text = f"slot {name}: {_size(state.behind)} behind, {_size(state.retained)} kept for it"
    if state.is_lost:
        text = f"slot {name} is lost: the server has deleted log that was not read"
        fix = "start invalidator-follow, which reports the gap and begins again; then: invalidator flush"
        return wrong(WHAT, text, fix, meaning=UnconfirmedError)
    if not state.is_active:
        fix = "systemctl start invalidator-follow, or: invalidator follow --drop"
        return wrong(WHAT, f"{text}; nobody follows", fix, meaning=UnreachableError)
    if state.is_running_out:
        fix = "make the follower quicker (systemctl status invalidator-follow), or raise max_slot_wal_keep_size"
        return wrong(WHAT, f"{text}; soon it will be lost", fix, meaning=UnconfirmedError)
    if state.behind > LATE:
        fix = "systemctl status invalidator-follow says what it waits for"
        return wrong(WHAT, text, fix, meaning=UnconfirmedError)
    return ok(WHAT, text)


def _size(size: int) -> str:
    return f"{size / 1_048_576:.1f} MiB"


async def _tables(connection: "psycopg.AsyncConnection[Any]", settings: Settings) -> list[Finding]:
    named = tables(settings)
    publication = await slot.published(connection, settings.follow.publication)
    if publication is None:
        text = f"there is no publication {settings.follow.publication}"
        return [wrong(WHAT, text, CREATE, meaning=ConfigurationError)]
    existing = await tables_of(connection, named)
    found = [
        finding
        for name, table in existing.items()
        for finding in _table(name, table, publication, fields_of(settings, name))
    ]
    for name in sorted(set(named) - existing.keys()):
        text = f"a rule is on {name}, and there is no such table"
        found.append(wrong(WHAT, text, "correct the rule, or create the table", meaning=ConfigurationError))
    return found or [ok(WHAT, f"tables: {', '.join(named) or 'none named by a rule'}")]


def fields_of(settings: Settings, table: str) -> set[tuple[str, ...]]:
    """Return the fields that the rules on a table's changes name, each as a path."""
    return {
        path
        for rule in settings.rule
        if rule.on.startswith(CHANGED) and table_of(rule.on) == table
        for template in rule.evict
        for path in compile_template(template, KEY_BYTES, settings.limits.event_keys).paths
        if path[0] not in _NO_COLUMNS
    }


def _table(name: str, table: Table, publication: slot.Published, fields: set[tuple[str, ...]]) -> Iterator[Finding]:
    if table.is_partitioned and not publication.is_via_root:
        text = f"changes of {name} are published under the names of its partitions, which no rule is on"
        yield wrong(WHAT, text, CREATE, meaning=ConfigurationError)
    elif name not in publication.tables:
        yield wrong(WHAT, f"the publication leaves out {name}", CREATE, meaning=ConfigurationError)
    if not table.has_identity:
        yield wrong(WHAT, no_identity(name), "", meaning=ConfigurationError)
    yield from missing_columns(name, table, fields)


def missing_columns(name: str, table: Table, fields: set[tuple[str, ...]]) -> Iterator[Finding]:
    """Yield the findings about columns that rules name and the log does not hold, at least not always. Pure."""
    full = f"ALTER TABLE {name} REPLICA IDENTITY FULL"
    unknown, old, large = [], [], []
    for path in sorted(fields):
        column, shown = _column(path), "{" + ".".join(path) + "}"
        if column not in table.columns:
            unknown.append(shown)
        elif not table.columns[column].is_identity:
            if path[0] != "after":  # an update lacks {before.x}, a delete lacks {x}
                old.append(shown)
            elif table.columns[column].may_be_left_out:
                large.append(shown)
    if unknown:
        text = f"rules name {', '.join(unknown)}, and {name} has no such column"
        yield wrong(WHAT, text, "correct the rules", meaning=ConfigurationError)
    if old:
        text = f"of an old row of {name} only the key is in the log, and rules name {', '.join(old)}"
        yield wrong(WHAT, text, full, meaning=ConfigurationError)
    if large:
        text = f"rules name {', '.join(large)} of {name}: a large value (TOAST) that an UPDATE leaves is not in the log"
        yield Finding("note", WHAT, text, full)


def _column(path: tuple[str, ...]) -> str:
    return path[1] if path[0] in ("before", "after") and len(path) > 1 else path[0]
