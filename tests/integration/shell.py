"""The `invalidator` command, run on a configuration."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from invalidator.broker.connection import close, connect
from invalidator.broker.declare import declare
from invalidator.broker.topology import Topology
from invalidator.operate.diagnosis.permissions import Permissions
from invalidator.settings import Settings
from tests.integration import preloaded
from tests.integration.shop import as_toml
from tests.servers import Broker

COMMAND = Path(sys.executable).with_name("invalidator")


class Shell:
    """`invalidator …` on one configuration."""

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
        """Run a command in a process that has already imported everything, which takes a tenth of the time."""
        return await preloaded.run(arguments, stdin=stdin, environ=self._environ(environ))

    async def run_installed(
        self, *arguments: str, stdin: bytes = b"", environ: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the installed command, as an operator would."""
        command = [str(COMMAND), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environ(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())

    def _environ(self, more: dict[str, str] | None) -> dict[str, str]:
        return os.environ | self.environ | {"INVALIDATOR_CONFIG": str(self._file)} | (more or {})

    async def declare(self) -> None:
        connection = await connect(self.settings.broker, name="test")
        await declare(connection, self.topology)
        await close(connection)


async def as_user(
    shell: Shell, broker: Broker, vhost: str, permissions: Permissions, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user of the broker with just these permissions; the management API accepts this user, too."""
    name = vhost.rpartition("/")[2]
    broker.api("PUT", f"/users/{name}", {"password": "hush", "tags": "management"})
    broker.api("PUT", f"/permissions/{name}/{name}", vars(permissions))
    try:
        url = vhost.replace("guest:guest", name)
        return await shell.run(
            *arguments, environ={"INVALIDATOR_BROKER__URL": url, "INVALIDATOR_BROKER__PASSWORD": "hush"}
        )
    finally:
        broker.api("DELETE", f"/users/{name}")
