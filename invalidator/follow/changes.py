"""Decoded changes of the log as events to publish.

    Change        type changed:SCHEMA.TABLE     {"op": "u", "before": {…}, "after": {…}, "source": {…}}
    Truncate      type truncated:SCHEMA.TABLE   {"op": "t", "source": {…}}, one for each table
    LogMessage    the event that the application wrote, as it is

The body is a Debezium change event in shape, so that rules address its columns alike and other consumers can read it.
"""

from collections.abc import Collection, Iterator

import msgspec

from invalidator.app.publish.message import Message
from invalidator.errors import PoisonError
from invalidator.events.event import decode
from invalidator.events.followed import CHANGED, TRUNCATED, table_of
from invalidator.follow import lsn
from invalidator.follow.pgoutput import Begin, Change, Decoder, LogMessage, Relation, Truncate

#: In the field `source.connector` of each event.
CONNECTOR = "invalidator"
#: The property app_id, by which the management UI shows who published an event.
APP_ID = "invalidator-follow"

_to_json = msgspec.json.Encoder().encode


class Changes:
    """Makes the events of one transaction after the other, for the tables that rules name."""

    def __init__(self, decoder: Decoder, *, types: Collection[str], prefix: str) -> None:
        """Make events for `types` of rules only; `prefix` marks the log messages that hold events."""
        self._decoder = decoder
        self._tables = set(filter(None, map(table_of, types)))
        self._prefix = prefix
        self._wanted: dict[Relation, bool] = {}
        #: The field `source` of this transaction's changes, encoded.
        self._sources: dict[Relation, msgspec.Raw] = {}
        self._begin: Begin | None = None
        self._number = 0

    @property
    def is_inside(self) -> bool:
        """True between the start of a transaction and its end."""
        return self._begin is not None

    def begin(self, begin: Begin) -> None:
        """Start with the events of a transaction."""
        self._begin, self._number = begin, 0
        self._sources.clear()

    def end(self) -> None:
        """End the transaction."""
        self._begin = None

    def wants(self, relation: Relation) -> bool:
        """Return True if a rule names the table."""
        wanted = self._wanted.get(relation)
        if wanted is None:
            wanted = self._wanted[relation] = relation.name in self._tables
        return wanted

    def of(self, decoded: Change | Truncate | LogMessage) -> Iterator[Message]:
        """Yield the events to publish, none if no rule is for them."""
        match decoded:
            case Change(relation) if self.wants(relation):
                yield self._changed(decoded)
            case Truncate(relations):
                yield from (self._truncated(relation) for relation in relations if self.wants(relation))
            case LogMessage(prefix, content) if prefix == self._prefix:
                yield self._as_written(content)

    def _changed(self, change: Change) -> Message:
        before, after = self._decoder.rows(change)
        relation = change.relation
        if after is not None and before is not None:
            after = before | after  # a large value that did not change is sent only before
        body = _to_json({"op": change.op, "before": before, "after": after, "source": self._source(relation)})
        return self._message(CHANGED + relation.name, body)

    def _truncated(self, relation: Relation) -> Message:
        return self._message(TRUNCATED + relation.name, _to_json({"op": "t", "source": self._source(relation)}))

    def _as_written(self, content: bytes) -> Message:
        try:
            type = decode(content).type
        except PoisonError:
            type = ""  # the worker refuses it too, and keeps it as a dead letter with the reason
        return self._message(type, content)

    def _source(self, relation: Relation) -> msgspec.Raw:
        found = self._sources.get(relation)
        if found is None:
            begin = self._transaction
            source = {
                "connector": CONNECTOR,
                "schema": relation.schema,
                "table": relation.table,
                "txId": begin.xid,
                "lsn": lsn.to_text(begin.lsn),
                "ts_ms": int(begin.committed_at.timestamp() * 1000),
            }
            found = self._sources[relation] = msgspec.Raw(_to_json(source))
        return found

    def _message(self, type: str, body: bytes) -> Message:
        begin = self._transaction
        self._number += 1
        # The same after each restart, so that a repetition is recognised.
        id = f"{begin.lsn:016X}.{self._number}"
        return Message(type=type, body=body, id=id, time=begin.committed_at, app_id=APP_ID)

    @property
    def _transaction(self) -> Begin:
        assert self._begin, "pgoutput sends changes between BEGIN and COMMIT only"
        return self._begin


def commit_of(id: str) -> int:
    """Return the position of the commit from an event's id, which is that position and a count in its transaction."""
    return int(id.partition(".")[0], 16)
