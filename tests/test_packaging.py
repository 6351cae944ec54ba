"""What is installed is what is there."""

import configparser
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found = {
        ".".join((installed_as, *folder.parent.relative_to(ROOT / source).parts))
        for source, installed_as in {"invalidator": "invalidator", "cli": "invalidator_cli"}.items()
        for folder in (ROOT / source).rglob("__init__.py")
    }
    assert found == set(setup["options"]["packages"].split())


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="invalidator")
    assert callable(command.load())
