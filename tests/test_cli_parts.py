"""The parts of the commands: fields, lines, printing."""

import io
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invalidator_cli.options import Field, event_fields, numbered_lines, parse_field
from invalidator_cli.output import print_findings, print_json, print_table, printable

from invalidator.errors import RefusedError, UnreachableError
from invalidator.operate.findings import ok, wrong


def fields(*arguments: str, number: int | None = None) -> dict[str, Any]:
    return event_fields(map(parse_field, arguments), number)


class TestFields:
    @pytest.mark.parametrize(
        ("argument", "event"),
        [
            ("id=007", {"id": "007"}),
            ("id=", {"id": ""}),
            ("id=true", {"id": "true"}),
            ("query=a=b", {"query": "a=b"}),
            ("query=a:=b", {"query": "a:=b"}),
            ("text=two\nlines", {"text": "two\nlines"}),
            ("id:=7", {"id": 7}),
            ("price:=9.90", {"price": 9.9}),
            ('tags:=["a", "b"]', {"tags": ["a", "b"]}),
            ("stock:=null", {"stock": None}),
            ("before.category.id=3", {"before": {"category": {"id": "3"}}}),
        ],
    )
    def test_text_is_a_string_and_only_json_is_json(self, argument: str, event: dict[str, Any]) -> None:
        assert event == fields(argument)

    def test_fields_of_one_object_come_together(self) -> None:
        assert {"a": {"b": "1", "c": 2}, "d": "3"} == fields("a.b=1", "a.c:=2", "d=3")

    @pytest.mark.parametrize("argument", ["id", "=7", ":=7", "", "a..b=7", ".a=7", "a.=7"])
    def test_an_argument_that_is_not_a_field_is_refused(self, argument: str) -> None:
        with pytest.raises(click.UsageError, match="is not a field"):
            parse_field(argument)

    @pytest.mark.parametrize("value", ["", "abc", "{", "[1,]", "NaN", "'a'", "\udcff", "[" * 100_000])
    def test_a_value_that_is_not_json_is_refused(self, value: str) -> None:
        with pytest.raises(click.UsageError, match="is not JSON"):
            fields(f"id:={value}")

    @pytest.mark.parametrize("arguments", [("id=1", "id=2"), ("a=1", "a.b=2"), ("a.b=1", "a=2"), ("a:=[]", "a.b=1")])
    def test_a_field_given_twice_is_refused(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(click.UsageError, match="given twice"):
            fields(*arguments)

    def test_n_stands_for_the_number_only_where_there_is_one(self) -> None:
        assert {"id": "p-7", "n": 7} == fields("id=p-{n}", "n:={n}", number=7)
        assert {"id": "p-{n}"} == fields("id=p-{n}")

    @given(st.text(st.characters(exclude_characters=".=:"), min_size=1), st.text())
    def test_whatever_the_text_it_arrives_as_it_is(self, name: str, text: str) -> None:
        assert Field((name,), text, is_json=False) == parse_field(f"{name}={text}")


def test_lines_are_numbered_and_blank_ones_left_out() -> None:
    assert [(1, b"a"), (3, b" b"), (4, b"c")] == list(numbered_lines(io.BytesIO(b"a\r\n\n b\nc")))


class TestPrinting:
    @given(st.text())
    def test_nothing_that_a_terminal_obeys_is_left(self, text: str) -> None:
        assert printable(text).isprintable()

    def test_foreign_text_reaches_the_terminal_escaped(self, capsys: pytest.CaptureFixture[str]) -> None:
        evil = "\x1b]0;title\x07\r\x9b2J\u202e"
        print_table([(evil, "x")], header=("KEY", "NODES"))
        print_findings([wrong("queue", evil, evil, meaning=RefusedError)], as_json=False)
        print_json({evil: evil})
        printed = capsys.readouterr().out
        assert printed.replace("\n", "").isprintable()
        assert r"\x1b]0;title\x07\r\x9b2J\u202e" in printed

    def test_columns_are_aligned_and_lines_not_padded(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table([("a", 1, ""), ("long", 22, "x")], header=("KEY", "N", "WHY"))
        assert "KEY   N   WHY\na     1\nlong  22  x\n" == capsys.readouterr().out

    def test_what_is_wrong_comes_first_with_its_fix_below(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_findings(
            [ok("node", "fine"), wrong("broker", "down", "start it", meaning=UnreachableError)], as_json=False
        )
        assert ("WRONG  broker  down\n               fix: start it\nOK     node    fine\n") == capsys.readouterr().out
