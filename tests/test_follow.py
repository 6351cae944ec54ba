"""The follower's pure parts: messages of the log, values, the gate, and the position that is done."""

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import postgres

from invalidator.follow import lsn
from invalidator.follow.changes import Changes
from invalidator.follow.pgoutput import (
    Begin,
    Change,
    Commit,
    Decoder,
    Ignored,
    LogMessage,
    ProtocolError,
    Truncate,
)
from invalidator.follow.progress import Position, Progress
from invalidator.follow.timeline import End, branches, forgotten_from
from invalidator.follow.values import OwnType, Values
from invalidator.postgres.gate import EPOCH, Gate, VisibleTransactions

TABLE = 16400
#: BEGIN of transaction 727 at 0/1528CC8, one second after 2000 began.
BEGIN = b"B" + struct.pack(">QqI", 0x1528CC8, 1_000_000, 727)
COMMIT = b"C" + struct.pack(">BQQq", 0, 0x1528CC8, 0x1528CF8, 1_000_000)


def relation(*columns: tuple[str, str, bool], identity: str = "d", table: str = "products") -> bytes:
    described = b"".join(
        bytes([is_key]) + name.encode() + b"\0" + struct.pack(">Ii", postgres.types[type].oid, -1)
        for name, type, is_key in columns
    )
    head = b"R" + struct.pack(">I", TABLE) + b"public\0" + table.encode() + b"\0" + identity.encode()
    return head + struct.pack(">H", len(columns)) + described


def row(*values: Any) -> bytes:
    """Return a tuple of the log; `...` stands for a value that is not sent."""
    encoded = b"".join(
        b"n" if value is None else b"u" if value is ... else b"t" + struct.pack(">I", len(value)) + value.encode()
        for value in values
    )
    return struct.pack(">H", len(values)) + encoded


def change(kind: bytes, *parts: bytes) -> bytes:
    return kind + struct.pack(">I", TABLE) + b"".join(parts)


@pytest.fixture
def decoder() -> Decoder:
    made = Decoder(Values().converter)
    made.decode(relation(("id", "int4", True), ("price", "numeric", False), ("note", "text", False)))
    return made


def rows(decoder: Decoder, data: bytes) -> tuple[Any, Any]:
    decoded = decoder.decode(data)
    assert isinstance(decoded, Change)
    return decoder.rows(decoded)


class TestMessages:
    def test_a_transaction_begins_and_ends_with_its_positions(self, decoder: Decoder) -> None:
        begin, commit = decoder.decode(BEGIN), decoder.decode(COMMIT)
        assert isinstance(begin, Begin)
        assert (0x1528CC8, "2000-01-01T00:00:01+00:00", 727) == (begin.lsn, begin.committed_at.isoformat(), begin.xid)
        assert Commit(0x1528CF8) == commit

    def test_an_inserted_row_has_its_columns_after_the_change(self, decoder: Decoder) -> None:
        data = change(b"I", b"N", row("17", "109.90", None))
        assert (None, {"id": 17, "price": "109.90", "note": None}) == rows(decoder, data)

    def test_a_value_that_was_not_sent_is_absent_and_not_null(self, decoder: Decoder) -> None:
        assert (None, {"id": 17, "price": "1"}) != rows(decoder, change(b"U", b"N", row("17", "1", ...)))
        assert (None, {"id": 17, "price": 1}) == rows(decoder, change(b"U", b"N", row("17", "1", ...)))

    def test_before_a_changed_key_only_the_keys_columns_are_known(self, decoder: Decoder) -> None:
        data = change(b"U", b"K", row("16", None, None), b"N", row("17", "1", "x"))
        assert ({"id": 16}, {"id": 17, "price": 1, "note": "x"}) == rows(decoder, data)

    def test_a_deleted_row_with_full_identity_is_known_whole(self, decoder: Decoder) -> None:
        assert ({"id": 17, "price": 1, "note": "x"}, None) == rows(decoder, change(b"D", b"O", row("17", "1", "x")))

    def test_truncated_tables_are_named(self, decoder: Decoder) -> None:
        truncated = decoder.decode(b"T" + struct.pack(">IBI", 1, 0, TABLE))
        assert isinstance(truncated, Truncate)
        assert ["public.products"] == [table.name for table in truncated.relations]

    def test_a_transactional_log_message_is_read_and_another_is_ignored(self, decoder: Decoder) -> None:
        def message(flags: int) -> bytes:
            return b"M" + struct.pack(">BQ", flags, 1) + b"invalidator\0" + struct.pack(">I", 2) + b"{}"

        assert LogMessage("invalidator", b"{}") == decoder.decode(message(1))
        assert Ignored("M") == decoder.decode(message(0))

    def test_a_table_that_was_altered_is_read_as_it_is_now(self, decoder: Decoder) -> None:
        decoder.decode(relation(("id", "int4", True), ("name", "text", False)))
        assert (None, {"id": 1, "name": "x"}) == rows(decoder, change(b"I", b"N", row("1", "x")))

    @pytest.mark.parametrize(
        "data", [b"", b"Z", b"B\0", change(b"I")[:3], b"I" + struct.pack(">I", 1) + b"N", b"R" + b"\0" * 6]
    )
    def test_what_no_protocol_allows_is_an_error(self, data: bytes, decoder: Decoder) -> None:
        with pytest.raises(ProtocolError):
            decoder.decode(data)

    @given(st.binary(max_size=60), st.sampled_from([b"I", b"U", b"D"]))
    def test_a_row_of_any_bytes_is_read_or_an_error(self, data: bytes, kind: bytes) -> None:
        made = Decoder(Values().converter)
        made.decode(relation(("id", "text", True), ("note", "text", False)))
        decoded = made.decode(change(kind, data))
        assert isinstance(decoded, Change)
        try:
            before, after = made.rows(decoded)
        except ProtocolError:
            return
        assert {"id", "note"} >= {*(before or {}), *(after or {})}


class TestValues:
    @pytest.mark.parametrize(
        ("type", "text", "value"),
        [
            ("int8", "9223372036854775807", 9223372036854775807),
            ("bool", "t", True),
            ("bool", "f", False),
            ("numeric", "12345678901234567890", 12345678901234567890),
            ("numeric", "109.90", "109.90"),
            ("numeric", "NaN", "NaN"),
            ("float8", "1.5", 1.5),
            ("float8", "-Infinity", "-Infinity"),
            ("date", "2026-11-27", "2026-11-27"),
            ("timestamp", "2026-11-27 07:43:00.12", "2026-11-27T07:43:00.12"),
            ("timestamptz", "2026-11-27 07:43:00+00", "2026-11-27T07:43:00+00:00"),
            ("timestamptz", "infinity", "infinity"),
            ("timestamptz", "0044-03-15 00:00:00+00 BC", "0044-03-15 00:00:00+00 BC"),
            ("bytea", "\\x0005ff", "AAX/"),
            ("jsonb", '{"a": [1, null]}', {"a": [1, None]}),
            ("uuid", "0b0c", "0b0c"),
            ("_int4", "{{1,2},{NULL,4}}", [[1, 2], [None, 4]]),
            ("_numeric", "{1.10,2}", ["1.10", 2]),
            ("_text", '{a,"b,c","NULL",NULL,"q\\"x"}', ["a", "b,c", "NULL", None, 'q"x']),
            ("_timestamptz", '{"2026-11-27 07:43:00+00"}', ["2026-11-27T07:43:00+00:00"]),
            ("_box", "{(1,2),(3,4);(5,6),(7,8)}", ["(1,2),(3,4)", "(5,6),(7,8)"]),
        ],
    )
    def test_a_value_is_what_json_has_for_it(self, type: str, text: str, value: object) -> None:
        known = postgres.types
        oid = known[type.removeprefix("_")].array_oid if type.startswith("_") else known[type].oid
        assert value == Values().converter(oid)(text.encode())

    def test_a_domain_and_an_array_of_it_are_read_as_the_type_beneath(self) -> None:
        values = Values()
        assert [20000, 20001] == values.unknown([23, 20000, 20001])
        values.learn([OwnType(20000, 0, postgres.types["int4"].oid), OwnType(20001, 20000, 0)])
        assert (5, [5, None]) == (values.converter(20000)(b"5"), values.converter(20001)(b"{5,NULL}"))
        assert [] == values.unknown([20000, 20001])

    def test_a_type_that_nobody_knows_keeps_its_text(self) -> None:
        assert "blue" == Values().converter(30000)(b"blue")


class TestGate:
    @pytest.mark.parametrize(
        ("snapshot", "xid", "shown"),
        [
            ("100:100:", 99, True),
            ("100:100:", 100, False),
            ("100:105:100,103", 100, False),
            ("100:105:100,103", 102, True),
            ("100:105:100,103", 103, False),
            (f"{EPOCH + 5}:{EPOCH + 5}:", 4, True),
            (f"{EPOCH + 5}:{EPOCH + 5}:", 5, False),
            (f"{EPOCH + 5}:{EPOCH + 5}:", 4_294_967_290, True),
            (f"{EPOCH - 5}:{EPOCH - 5}:", 3, False),
        ],
    )
    def test_a_snapshot_shows_what_was_committed_before_it(self, snapshot: str, xid: int, shown: bool) -> None:
        assert shown == VisibleTransactions.parse(snapshot).shows(xid)

    async def test_the_gate_opens_once_a_new_snapshot_shows_the_transaction(self) -> None:
        answers = iter(["100:105:102", "100:105:102", "105:105:"])
        asked = []

        async def snapshot() -> str:
            asked.append(answer := next(answers))
            return answer

        gate = Gate(snapshot)
        await gate.wait(102)
        await gate.wait(104)
        assert (3, True, None) == (len(asked), gate.is_open(103), gate.waits_for)


class TestProgress:
    def test_a_position_is_done_when_every_event_before_it_is_confirmed(self) -> None:
        progress = Progress()
        progress.published = 2
        progress.reached(Position(100))
        progress.published = 3
        progress.reached(Position(200))
        seen = [(progress.confirm(count), progress.position.lsn, progress.in_flight) for count in (1, 2, 3)]
        assert [(1, 0, 2), (1, 100, 1), (1, 200, 0)] == seen

    def test_with_nothing_in_flight_a_position_is_done_at_once(self) -> None:
        progress = Progress()
        progress.reached(Position(100))
        assert 100 == progress.position.lsn

    def test_positions_without_events_between_them_take_no_memory(self) -> None:
        progress = Progress()
        progress.published = 1
        for position in range(1000):
            progress.reached(Position(position))
        assert 1 == len(progress._waiting)
        progress.confirm(1)
        assert 999 == progress.position.lsn


@pytest.mark.parametrize("text", ["0/0", "0/1528CC8", "16/B374D848", "FFFFFFFF/FFFFFFFF"])
def test_a_position_is_read_as_it_is_printed(text: str) -> None:
    assert text == lsn.to_text(lsn.from_text(text))


class TestChanges:
    @pytest.fixture
    def made(self, decoder: Decoder) -> Callable[[bytes], list[tuple[str, str, Any]]]:
        changes = Changes(decoder, types=["changed:public.products", "product_updated"], prefix="invalidator")
        begin = decoder.decode(BEGIN)
        assert isinstance(begin, Begin)
        changes.begin(begin)

        def made(data: bytes) -> list[tuple[str, str, Any]]:
            decoded = decoder.decode(data)
            assert isinstance(decoded, Change | Truncate | LogMessage)
            return [(message.type, message.id, json.loads(message.body)) for message in changes.of(decoded)]

        return made

    def test_a_change_is_an_event_that_says_where_it_comes_from(self, made: Callable[[bytes], Any]) -> None:
        source: dict[str, Any] = {"connector": "invalidator", "schema": "public", "table": "products"}
        source |= {"txId": 727, "lsn": "0/1528CC8", "ts_ms": 946684801000}
        after = {"id": 17, "price": "1.5", "note": None}
        assert [
            (
                "changed:public.products",
                "0000000001528CC8.1",
                {"op": "c", "before": None, "after": after, "source": source},
            )
        ] == made(change(b"I", b"N", row("17", "1.5", None)))

    def test_with_full_identity_a_large_value_that_did_not_change_is_known(
        self, made: Callable[[bytes], Any], decoder: Decoder
    ) -> None:
        decoder.decode(relation(("id", "int4", True), ("note", "text", True), identity="f"))
        ((_, _, body),) = made(change(b"U", b"O", row("1", "long"), b"N", row("1", ...)))
        assert {"id": 1, "note": "long"} == body["after"]

    def test_a_table_without_a_rule_is_no_event(self, made: Callable[[bytes], Any], decoder: Decoder) -> None:
        decoder.decode(relation(("id", "int4", True), table="orders"))
        assert [] == made(change(b"I", b"N", row("1")))

    def test_an_emptied_table_is_an_event_of_its_own(self, made: Callable[[bytes], Any]) -> None:
        ((type, _, body),) = made(b"T" + struct.pack(">IBI", 1, 0, TABLE))
        assert ("truncated:public.products", "t") == (type, body["op"])

    def test_a_log_message_of_ours_is_the_event_that_it_holds(self, made: Callable[[bytes], Any]) -> None:
        def message(prefix: str, content: bytes) -> bytes:
            size = struct.pack(">I", len(content))
            return b"M" + struct.pack(">BQ", 1, 1) + prefix.encode() + b"\0" + size + content

        event = b'{"type": "product_updated", "id": 7}'
        assert [("product_updated", json.loads(event))] == [
            (type, body) for type, _, body in made(message("invalidator", event))
        ]
        assert [] == made(message("somebody", event))


class TestTimelines:
    HISTORY = "1\t0/3000100\tno recovery target specified\n\n2\t0/5000000\tbefore a mistake\n"

    def test_a_history_names_the_positions_at_which_its_ancestors_were_left(self) -> None:
        assert {1: 0x3000100, 2: 0x5000000} == branches(self.HISTORY)

    @pytest.mark.parametrize(("read", "forgotten"), [(100, None), (200, None), (201, 200)])
    async def test_log_beyond_the_end_of_the_same_timeline_is_forgotten(self, read: int, forgotten: int | None) -> None:
        assert forgotten == await forgotten_from("no server is asked", End(1, read), End(1, 200))
