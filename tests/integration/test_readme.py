"""Every command of the README, run as it is written, on private servers in place of the usual addresses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import MemcachedFactory
from tests.pages import blocks, run
from tests.servers import Broker

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.rst").read_text()
BLOCKS = blocks(README)


@pytest.fixture
def shell(vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> "Shell":
    return Shell(tmp_path, {"127.0.0.1:5672/": f"{broker.address}/{vhost.rpartition('/')[2]}",
                           "127.0.0.1:11211": memcached().address}, broker.management_url)  # fmt: skip


class Shell:
    """Runs a block with bash, with the installed command first in its PATH and private servers for its addresses."""

    def __init__(self, folder: Path, instead: dict[str, str], management: str) -> None:
        self._folder = folder
        self._instead = instead
        self._management = management

    def run(self, block: str) -> "subprocess.CompletedProcess[str]":
        for usual, private in self._instead.items():
            block = block.replace(usual, private)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {"PATH": path, "HOME": str(self._folder), "INVALIDATOR_MANAGEMENT__URL": self._management}
        return run(block, self._folder, environ)


def test_the_first_two_commands_are_demo_and_test_of_the_script_dev() -> None:
    commands = [line.split("#")[0].strip() for line in BLOCKS[0].splitlines() if line]
    assert commands == ["./dev demo", "./dev test"]
    usage = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    assert all(f"dev {name}" in usage for name in ("demo", "test"))


@pytest.mark.timeout(120)
def test_every_other_command_works_as_it_is_written(shell: Shell) -> None:
    embedded, own, daily = (block for block in BLOCKS[1:] if "invalidator " in block and "exchange" not in block[:200])
    own = own.partition("\n")[2]  # without the installation, which has been done
    with_worker = f"{own}\n{daily}"
    for command in ("invalidator check", "invalidator status"):  # which see the worker a few seconds later
        with_worker = re.sub(f"^({command} ).*", r"until \1; do sleep 0.2; done", with_worker, flags=re.MULTILINE)
    for block in (embedded, with_worker):
        done = shell.run(block)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
