"""The pages render, their links work, and every command, option, setting, file and test that they name exists."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
from invalidator_cli.main import main

from invalidator.settings import Settings
from invalidator.settings.names import refuse_unknown
from invalidator.settings.password import decode_secret
from tests.pages import blocks, broken_links

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
CODE = ROOT / "invalidator"
ARCHITECTURE = (CODE / "ARCHITECTURE.rst").read_text()
#: Pages beside the handbook's.
OTHERS = (ROOT / "README.rst", ROOT / "CHANGES.rst", ROOT / ".github/CONTRIBUTING.rst", CODE / "ARCHITECTURE.rst")
PAGES = ("README.rst", "runbook.rst", "upgrade.rst", "rabbitmq/users.rst")
HANDBOOK = (CONF / "README.rst").read_text()
RULES = (CONF / "prometheus/invalidator.rules.yml").read_text()
TABLES = [block for block in blocks(HANDBOOK) if re.match(r"\[[a-z]+\]|cluster = ", block)]


@pytest.mark.parametrize("file", [*(CONF / page for page in PAGES), *OTHERS], ids=lambda file: file.name)
def test_a_page_renders_and_each_link_and_picture_leads_somewhere(file: Path) -> None:
    assert [] == broken_links(file)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.splitlines()[0])
def test_every_piece_of_a_configuration_is_valid(table: str) -> None:
    parsed = tomllib.loads(table)
    refuse_unknown(Settings, parsed, "in the handbook")
    msgspec.convert(parsed, Settings, dec_hook=decode_secret)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_that_is_named_exists(page: str) -> None:
    text = "\n".join(blocks((CONF / page).read_text()))
    named = re.findall(r"(?:^|[ /])invalidator ((?:\w+)(?: .*)?)$", text.replace("\\\n", ""), re.MULTILINE)
    for line in named:
        words = shlex.split(re.split(r"  +| [|<>;]|;", line)[0])
        command: click.Command = main
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(main), words.pop(0))
            assert found, line
            command = found
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line
    assert named or page != "README.rst"


def test_every_alert_is_in_the_handbook() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES))
    assert alerts == set(re.findall(r"^`(Invalidator\w+) <runbook", HANDBOOK, re.MULTILINE))


def test_the_service_level_is_what_an_alert_watches() -> None:
    (level,) = (block.strip() for block in blocks(HANDBOOK) if "histogram_quantile" in block)
    assert f"expr: {level} > 1\n" in RULES


def test_every_file_and_function_that_the_architecture_names_exists() -> None:
    named = re.findall(r"``([\w./]+\.py)(?:: ([\w.]+))?``", ARCHITECTURE)
    missing = []
    for file, path in named:
        found = [folder / file for folder in (CODE, ROOT) if (folder / file).is_file()]
        text = found[0].read_text() if found else ""
        if not all(re.search(rf"(?:def|class) {name}\b", text) for name in path.split(".") if name) or not found:
            missing.append(f"{file}: {path}")
    assert [] == missing
    assert len(named) > 30


PROMISES = [ROOT / "README.rst", ROOT / "conf" / "audit.rst", CODE / "ARCHITECTURE.rst"]


@pytest.mark.parametrize("page", PROMISES, ids=lambda page: page.name)
def test_every_test_that_the_promises_name_exists(page: Path) -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"test_\w{20,}", page.read_text())
    assert len(named) > 5
    assert [] == [name for name in named if f"def {name}(" not in tests]


def test_the_architecture_names_every_room() -> None:
    rooms = {path.stem for path in CODE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {room for room in rooms if not room.startswith("_") and room not in ARCHITECTURE} == set()


def test_every_reason_of_a_dead_letter_is_in_the_handbook() -> None:
    code = "\n".join(file.read_text() for file in [*CODE.glob("events/*.py"), CODE / "worker/planner.py"])
    reasons = set(re.findall(r'PoisonError\(\s*"([a-z0-9-]+)"', code))
    listed = re.findall(r"``([a-z0-9-]+)``", HANDBOOK.partition("Which messages are read\n")[2])
    assert {"unexpected"} == reasons - set(listed)
