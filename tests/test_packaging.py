"""The installed package is complete."""

import configparser
import re
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from invalidator_cli.main import main
from invalidator_cli.man import WIDTH, contexts, escaped, pages

from tests.pages import written

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
MAN_PAGES = dict(pages("0.1.0"))


def setup_cfg() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def test_every_package_is_listed() -> None:
    found = {
        ".".join((installed_as, *folder.parent.relative_to(ROOT / source).parts))
        for source, installed_as in {"invalidator": "invalidator", "cli": "invalidator_cli"}.items()
        for folder in (ROOT / source).rglob("__init__.py")
    }
    assert found == set(setup_cfg()["options"]["packages"].split())


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="invalidator")
    assert callable(command.load())


def test_the_package_runs_as_a_module_under_the_name_of_the_command() -> None:
    run = [sys.executable, "-m", "invalidator", "--help"]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert output.startswith("Usage: invalidator ")


def test_the_architecture_is_installed_beside_the_code() -> None:
    assert (files("invalidator") / "ARCHITECTURE.rst").is_file()
    assert "ARCHITECTURE.rst" in setup_cfg()["options.package_data"]["invalidator"].split()


def test_every_file_of_conf_is_installed() -> None:
    globs = " ".join(setup_cfg()["options.data_files"].values()).split()
    listed = {file for glob in globs for file in ROOT.glob(glob)}
    assert written(CONF) | {ROOT / "CHANGES.rst"} == listed


@pytest.mark.parametrize(
    "ctx", list(contexts(click.Context(main, info_name="invalidator"))), ids=lambda c: c.command_path
)
def test_a_man_page_says_what_help_says(ctx: click.Context) -> None:
    """Compare without white space and markup; headings differ in case."""
    page = plain(MAN_PAGES[ctx.command_path.replace(" ", "-") + ".1"])
    arguments = [*ctx.command_path.split()[1:], "--help"]
    text = (
        CliRunner()
        .invoke(main, arguments, prog_name="invalidator", terminal_width=WIDTH, max_content_width=WIDTH)
        .output
    )
    for line in text.removeprefix("Usage: ").splitlines():
        assert squeezed(line.strip().removesuffix(":")) in page


def test_a_man_page_escapes_what_roff_would_interpret() -> None:
    assert r"\&.TH \-\- \e \(aq \[u2026]" == escaped(".TH -- \\ ' …")


def plain(page: str) -> str:
    """Return the text of a man page, squeezed."""
    page = re.sub(r"^\.(?:SH|B|TP|PP|nf|fi|TH)\b", "", page, flags=re.MULTILINE)
    page = re.sub(r"\\\[u([0-9A-F]{4})\]", lambda match: chr(int(match[1], 16)), page)
    for markup, text in {r"\-": "-", r"\(aq": "'", r"\&": "", r"\e": "\\"}.items():
        page = page.replace(markup, text)
    return squeezed(page)


def squeezed(text: str) -> str:
    return "".join(text.split()).casefold()


@pytest.mark.parametrize("file_url", [None, "https://host.example/blob/main/{path}"])
def test_the_readme_on_a_package_index_has_no_link_or_picture_that_is_broken_there(file_url: str | None) -> None:
    page = setup_py().long_description((ROOT / "README.rst").read_text(), file_url=file_url)
    rendered = subprocess.run(
        [sys.executable, "-m", "docutils", "--halt=warning"], input=page, capture_output=True, text=True, check=True
    ).stdout
    links = re.findall(r'(?:href|src)="([^"]*)"', rendered)
    assert [] == [link for link in links if not link.startswith(("https://", "#"))]
    assert 3 == sum(link.endswith(".png") for link in links) or file_url is None


def test_the_readme_on_a_package_index_names_the_installed_files() -> None:
    page = setup_py().long_description((ROOT / "README.rst").read_text(), file_url=None)
    assert "The handbook (``share/invalidator/README.rst``)" in " ".join(page.split())
    assert "``share/invalidator/invalidator.toml``" in page
    assert "conf/" not in page


def setup_py() -> ModuleType:
    spec = spec_from_file_location("setup_of_the_project", ROOT / "setup.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
