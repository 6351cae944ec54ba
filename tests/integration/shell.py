"""The installed command, run as an operator would."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from invalidator.broker.connection import close, connect
from invalidator.broker.topology import Topology, declare
from invalidator.settings import Settings
from tests.integration.shop import as_toml
from tests.servers import Broker

COMMAND = Path(sys.executable).with_name("invalidator")


class Shell:
    """`invalidator …` on one configuration, in a process of its own."""

    def __init__(self, settings: Settings, broker: Broker, folder: Path) -> None:
        self.settings = settings
        self.topology = Topology.of(settings)
        self.environ = {"INVALIDATOR_MANAGEMENT__URL": broker.management_url}
        self._file = folder / "cli.toml"
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self._file.write_text(as_toml(settings))
        self._file.chmod(0o600)

    async def run(
        self, *arguments: str, stdin: bytes = b"", environ: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        command = [str(COMMAND), *arguments]
        variables = os.environ | self.environ | {"INVALIDATOR_CONFIG": str(self._file)} | (environ or {})
        process = await asyncio.create_subprocess_exec(
            *command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())

    async def declare(self) -> None:
        connection = await connect(self.settings.broker, name="test")
        await declare(connection, self.topology)
        await close(connection)
