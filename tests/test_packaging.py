"""The installed package is complete."""

import configparser
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
