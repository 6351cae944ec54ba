"""Log lines in the three forms: JSON for machines, columns for a terminal, text for an application's own handlers."""

import io
import json
import logging
import sys

import pytest

from invalidator.runtime.logs import LIBRARIES, ConsoleFormatter, JsonFormatter, Log, set_up_logs

log = Log("invalidator.test")


class Terminal(io.StringIO):
    """Standard error of a person."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of standard error."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", made := Terminal())
    return made


def test_one_json_object_a_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs()
    log.info("evicted", keys=3, parked={"c1": 2})
    logging.getLogger("somebody.else").warning("100 %% of %d", 7)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [["timestamp", "level", "event", "keys", "parked"], ["timestamp", "level", "event"]] == [*map(list, lines)]
    assert {"level": "info", "event": "evicted", "keys": 3, "parked": {"c1": 2}}.items() <= lines[0].items()
    assert "100 % of 7" == lines[1]["event"]


def test_nothing_is_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(form="console")
    log.error("node unreachable", node="c1")
    assert "" == capsys.readouterr().out


def test_a_terminal_shows_columns_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    set_up_logs()
    log.warning("node unreachable", node="c1", reason="cannot connect: refused")
    text = screen.getvalue()
    assert "\x1b[33mwarning \x1b[0m" in text
    assert text.endswith("node=c1 reason='cannot connect: refused'\n")


def test_no_color_means_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    set_up_logs()
    log.warning("node unreachable", node="c1")
    assert "\x1b" not in screen.getvalue()


def test_bytes_that_a_terminal_would_interpret_are_quoted() -> None:
    console = ConsoleFormatter(colours=False)
    text = console.format(record("refused", reply_to="\x1b[2J"))
    assert "\x1b" not in text
    assert text.endswith(r"reply_to='\x1b[2J'")


@pytest.mark.parametrize("form", [JsonFormatter(), ConsoleFormatter(colours=False)], ids=["json", "console"])
def test_a_traceback_shows_no_local_variables(form: logging.Formatter) -> None:
    secret = "hush-hush"
    try:
        raise ZeroDivisionError("at" + secret[:0])
    except ZeroDivisionError:
        text = form.format(record("it failed", exc_info=sys.exc_info()))
    assert "ZeroDivisionError: at" in text
    assert "test_a_traceback_shows_no_local_variables" in text
    assert "hush-hush" not in text.replace('secret = "hush-hush"', "")


def test_an_applications_own_handler_gets_the_fields_as_text(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("not receiving announcements", cluster="eu", seconds=1.5)
    assert "not receiving announcements cluster=eu seconds=1.5" == caplog.messages[-1]


def test_an_exception_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(form="json")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("the loader failed", key="k")
    line = json.loads(capsys.readouterr().err)
    assert ("error", "k") == (line["level"], line["key"])
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.parametrize(("level", "expected"), [("info", logging.CRITICAL), ("debug", logging.DEBUG)])
def test_libraries_are_silent_unless_everything_is_logged(
    level: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LIBRARIES:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    set_up_logs(level_name=level)
    assert {expected} == {logging.getLogger(name).level for name in LIBRARIES}


def record(event: str, *, exc_info: object = None, **fields: object) -> logging.LogRecord:
    """Make a record as `Log` does."""
    kept: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    logger, keeper = logging.getLogger("invalidator.test"), Keeper()
    logger.addHandler(keeper)
    log.error(event, **fields)
    logger.removeHandler(keeper)
    kept[0].exc_info = exc_info  # type: ignore[assignment]
    return kept[0]
