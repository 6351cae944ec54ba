"""A private PgBouncer in front of a PostgreSQL server."""

import os
import shutil
import socket
from pathlib import Path

from .postgres import Postgres, as_postgres
from .process import Server, free_port

#: Debian keeps it out of the PATH of users other than root.
PROGRAM = Path("/usr/sbin/pgbouncer")


def pgbouncer_is_installed() -> bool:
    return PROGRAM.exists()


class PgBouncer(Server):
    """A pool of sessions; `mode` is session or transaction."""

    def __init__(self, database: Postgres, *, mode: str) -> None:
        super().__init__(None)
        self.port = free_port()
        self._database = database
        self._mode = mode

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _command(self) -> list[str]:
        file = self.folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._database.port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {self._mode}\n"
        )
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        return as_postgres(str(PROGRAM), str(file))

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
