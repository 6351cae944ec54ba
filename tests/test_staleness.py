"""The drawing of staleness over delay, in a terminal and as a file."""

import io
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner
from invalidator_cli.main import main
from invalidator_cli.staleness import ASCII_BLOCKS, Point, bars, svg

from invalidator.audit.account import Account
from invalidator.audit.verdict import Verdict

NOISY, CLEAN = Point(0.1, 0.01, 0.1), Point(60, 0, 0.00002)
SVG = "{http://www.w3.org/2000/svg}"


def test_bars_show_what_was_stale_and_what_is_not_excluded_on_a_scale_that_reaches_down_to_it() -> None:
    assert [
        "LAST DAY    0.001 %  0.01 %   0.1 %    1 %      10 %     100 %",
        "after 0.1 s ###########################---------",
        "after 60 s  ---",
        "            # stale, - not excluded with 95 %",
    ] == bars([NOISY, CLEAN], title="LAST DAY", width=64, blocks=ASCII_BLOCKS)


@pytest.mark.parametrize("width", [20, 80, 200])
def test_bars_are_within_the_terminal_unless_it_is_too_narrow_for_their_labels(width: int) -> None:
    assert max(map(len, bars([NOISY, CLEAN], title="LAST DAY", width=width))) <= max(width, 65)


def test_everything_stale_fills_the_bar_and_nothing_known_does_not_pretend() -> None:
    assert bars([Point(1, 1.0, 1.0)], title="LAST DAY", width=50)[1].count("█") == bars(
        [Point(1, 0.0, 1.0)], title="LAST DAY", width=50
    )[1].count("▒")


def test_a_file_has_a_line_for_each_delay_and_a_dot_where_something_was_stale() -> None:
    drawn = ET.fromstring(svg({"last day": [NOISY, CLEAN], "last week": [NOISY], "never": []}))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert ["last day", "last week"] == [text for text in texts if text and text.startswith("last")]
    assert 2 == len(list(drawn.iter(f"{SVG}circle")))
    assert {"0.1", "60", "0.001 %", "100 %"} <= set(texts)


def test_nothing_known_is_a_picture_all_the_same() -> None:
    assert ET.fromstring(svg({"last day": [], "last week": []})).tag == f"{SVG}svg"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the configuration of a cluster whose auditor has found one of four values stale."""
    account = Account(tmp_path / "account.sqlite")
    for verdict, times in ((Verdict.FRESH, 3), (Verdict.LATE, 1)):
        account.count(0.1, verdict, at=time.time(), times=times)
    account.listened(1.0, at=time.time())
    account.save(now=time.time())
    account.close()
    file = tmp_path / "eu.toml"
    file.write_text(f'[audit]\naccount = "{tmp_path / "account.sqlite"}"\n')
    return file


def test_the_report_draws_bars_and_writes_the_file(config: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["audit", "report", "--config", str(config), "--plot", str(tmp_path / "staleness.svg")]
    )
    assert 0 == done.exit_code, done.output
    assert "after 0.1 s █" in done.output
    assert (tmp_path / "staleness.svg").read_text().startswith("<svg")


def test_the_report_is_ascii_where_the_output_is(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", pipe)
    main(["audit", "report", "--config", str(config)], standalone_mode=False)
    pipe.flush()
    assert "after 0.1 s #" in pipe.buffer.getvalue().decode("ascii")


def test_a_plot_that_cannot_be_written_is_said_with_its_file(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "staleness.svg"
    done = CliRunner().invoke(main, ["audit", "report", "--config", str(config), "--plot", str(file)])
    assert (78, f"--plot {file} cannot be written: No such file or directory") == (
        done.exit_code,
        done.output.partition(": ")[2].strip(),
    )
