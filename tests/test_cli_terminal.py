"""Output on a terminal: it fits the width, is coloured unless switched off, and never contains control codes."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).with_name("invalidator")
CONFIGURATION = """
cluster = "eu"
broker.url = "amqp://127.0.0.1:1/"
management.url = "http://127.0.0.1:1"
ring.nodes = {eu-1 = "127.0.0.1:1"}
rule = [{ on = "product_updated", evict = ["product:{id}"] }]
"""
#: Colours and attributes: all that may be sent to a terminal besides text.
STYLE = re.compile(r"\x1b\[([0-9;]*)m")


def on_terminal(folder: Path, *arguments: str, columns: int = 80, **environ: Any) -> str:
    """Return the text that the command writes to a terminal of this width, as `tmux` would give it."""
    file = folder / "invalidator.toml"
    file.write_text(CONFIGURATION)
    variables = {"INVALIDATOR_CONFIG": str(file), "TERM": "xterm-256color", "COLUMNS": str(columns), **environ}
    ours, theirs = pty.openpty()
    process = subprocess.Popen([COMMAND, *arguments], env=os.environ | variables, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:
        pass  # the other side is closed: that is how a terminal ends
    process.wait()
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", [("check",), ("explain", "product_updated", f"id={'x' * 150}")], ids=str)
def test_it_fits_and_nothing_is_cut_off(command: tuple[str, ...], columns: int, tmp_path: Path) -> None:
    plain = STYLE.sub("", on_terminal(tmp_path, *command, columns=columns))
    assert max(map(len, plain.splitlines())) <= columns
    assert "…" not in plain
    assert command[0] == "check" or plain.count("x") >= 150


def test_it_is_coloured_unless_colours_are_switched_off(tmp_path: Path) -> None:
    def colours(**environ: Any) -> set[str]:
        return {code for codes in STYLE.findall(on_terminal(tmp_path, "check", **environ)) for code in codes.split(";")}

    assert {"31", "32"} <= colours()
    assert not {code for code in colours(NO_COLOR="1") if code[:1] in "349"}
    assert not colours(TERM="dumb")


def test_a_key_cannot_command_the_terminal(tmp_path: Path) -> None:
    written = on_terminal(tmp_path, "explain", "product_updated", "id=\x1b]0;title\x07\x1b[2J[bold red]\u202e")
    assert STYLE.sub("", written).replace("\n", "").isprintable()
    assert "[bold red]" in written


def test_in_a_pipe_it_is_plain_text_with_a_line_for_each_row(tmp_path: Path) -> None:
    file = tmp_path / "invalidator.toml"
    file.write_text(CONFIGURATION)
    command = [str(COMMAND), "explain", "product_updated", f"id={'x' * 150}", "--config", str(file)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in printed
    assert f"product:{'x' * 150}" in printed


@pytest.mark.parametrize(
    ("redirection", "codes", "said"),
    [
        (">/dev/full", {1}, "invalidator: cannot write the output: No space left on device\n"),
        (">/dev/full 2>/dev/full", {1, 120}, ""),  # 120 is Python's own, from 3.13 on: it cannot flush standard error
        (">&-", {0}, ""),
        (">&- 2>&-", {0}, ""),
    ],
)
def test_output_that_cannot_be_written_is_one_line_or_nothing(
    redirection: str, codes: set[int], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "invalidator.toml"
    file.write_text(CONFIGURATION)
    line = f"{COMMAND} topology export --config {file} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode in codes
    assert (said, "") == (done.stderr, done.stdout)


def test_a_reader_that_has_gone_ends_a_command_quietly(tmp_path: Path) -> None:
    file = tmp_path / "invalidator.toml"
    file.write_text(CONFIGURATION)
    ours, theirs = os.pipe()
    os.close(ours)
    command = [str(COMMAND), "topology", "export", "--config", str(file)]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (1, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_completion_script(shell: str, tmp_path: Path) -> None:
    assert "_INVALIDATOR_COMPLETE" in on_terminal(tmp_path, "completion", shell)


def test_words_are_completed(tmp_path: Path) -> None:
    def completed(*words: str) -> list[str]:
        environ: dict[str, Any] = {"_INVALIDATOR_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words))}
        written = on_terminal(tmp_path, COMP_WORDS=" ".join(("invalidator", *words)), **environ)
        return [line.removeprefix("plain,") for line in written.splitlines()]

    assert ["dead", "demo"] == completed("de")
    assert ["replay"] == completed("dead", "re")
    assert ["--wait"] == completed("evict", "--w")
