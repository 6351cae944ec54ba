"""A private MariaDB server."""

import os
import shutil
import subprocess

from .process import Server, ServerError, free_port

#: Debian keeps it out of the PATH of users other than root.
PROGRAM = shutil.which("mariadbd", path="/usr/sbin:/usr/bin:" + os.environ.get("PATH", ""))


def mariadb_is_installed() -> bool:
    return PROGRAM is not None


class Mariadb(Server):
    """A MariaDB server. The user is root, without a password. Arguments are those of the server.

    A server that was stopped or killed starts again on the same port with its old data.
    """

    def __init__(self, *arguments: str) -> None:
        super().__init__(None)
        self.arguments = arguments
        self.port = free_port()
        self.data = self.folder / "data"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, database: str = "mysql") -> str:
        return f"mariadb://root@{self.address}/{database}"

    def start(self) -> None:
        """Return once the server accepts connections. A new one creates its data first, in a few seconds."""
        if not self.data.exists():
            self._make_data()
        super().start()

    def sql(self, statement: str) -> str:
        """Run one statement with `mariadb`; return its rows, tabulated and without a heading. Raises ServerError."""
        where = ["--no-defaults", "--host=127.0.0.1", f"--port={self.port}", "--user=root", "--skip-ssl"]
        return _run("mariadb", *where, "--batch", "--skip-column-names", "--execute", statement).strip()

    def add_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self.sql(f"CREATE DATABASE `{name}`")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.sql(f"DROP DATABASE `{name}`")

    def _make_data(self) -> None:
        _run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *_user(),
        )

    def _command(self) -> list[str]:
        assert PROGRAM
        # No fsync at a commit: the data only has to survive the end of the process, not of the machine.
        options = {
            "datadir": self.data,
            "bind-address": "127.0.0.1",
            "port": self.port,
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "innodb-flush-log-at-trx-commit": 2,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        return [PROGRAM, "--no-defaults", *_user(), *given, *self.arguments]

    def _answers(self) -> bool:
        try:
            return self.sql("SELECT 1") == "1"
        except ServerError:
            return False


def _user() -> list[str]:
    """Return the option without which MariaDB refuses to run as root.

    Another user would do too, but a process that changes its user loses the signal at its parent's death.
    """
    return ["--user=root"] if os.geteuid() == 0 else []


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{program}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
