"""A private PostgreSQL server and its replicas."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from .process import Server, ServerError, free_port

#: Debian keeps the server's programs out of the PATH, in a folder for each version.
PROGRAMS = Path("/usr/lib/postgresql")


def postgres_is_installed() -> bool:
    return _programs() is not None


class Postgres(Server):
    """A PostgreSQL server. With `primary`, it is a replica that streams from that server, which has to be running.

    The user is postgres, without a password. Arguments are those of the server: `Postgres("-c", "work_mem=1MB")`, or
    for a replica that lags, `Postgres("-c", "recovery_min_apply_delay=2s", primary=…)`. A server that was stopped or
    killed starts again on the same port with its old data.
    """

    def __init__(self, *arguments: str, primary: "Postgres | None" = None, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.arguments = arguments
        self.primary = primary
        self.port = free_port()
        self.data = self.folder / "data"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, database: str = "postgres") -> str:
        """Return the URL for libpq. SQLAlchemy with psycopg needs `postgresql+psycopg://` in front."""
        return f"postgresql://postgres@{self.address}/{database}"

    def start(self) -> None:
        """Return once the server accepts connections. A new one creates its data first, in about two seconds."""
        if not self.data.exists():
            self._make_data()
        super().start()

    def stop(self) -> None:
        """Shut down fast: the server rolls open transactions back."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Stop at once, without a checkpoint: the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        self.stop()  # a killed server leaves shared memory behind
        super().close()

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement with `psql`; return its rows, unaligned and without a heading. Raises ServerError."""
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        return self._run("psql", *options, "--command", statement, self.url(database)).strip()

    def add_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self.sql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.sql(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _make_data(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        where = [f"--pgdata={self.data}", "--no-sync"]
        if self.primary:
            source = ["--write-recovery-conf", "--checkpoint=fast", f"--dbname={self.primary.url()}"]
            self._run("pg_basebackup", *where, *source)
        else:
            self._run("initdb", *where, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")

    def _command(self) -> list[str]:
        # No fsync: the data only has to survive the end of the process, not of the machine.
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return as_postgres(_program("postgres"), "-D", str(self.data), *options, *self.arguments)

    def _answers(self) -> bool:
        command = [_program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> str:
        command = as_postgres(_program(program), *arguments)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"{program}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def as_postgres(*command: str) -> list[str]:
    """Return the command to run as Debian's user if we are root, as whom PostgreSQL refuses to run."""
    if os.geteuid() != 0:
        return list(command)
    user = pwd.getpwnam("postgres")
    # The kernel clears the parent-death signal when the user changes, so set it again.
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *identity, "--pdeathsig", "KILL", "--", *command]


def _program(name: str) -> str:
    programs = _programs()
    if programs is None:
        raise ServerError(f"no PostgreSQL server under {PROGRAMS}: apt-get install postgresql")
    return str(programs / name)


def _programs() -> Path | None:
    """Return the folder of the newest version."""
    found = PROGRAMS.glob("*/bin/initdb")
    return max((file.parent for file in found), key=lambda folder: int(folder.parent.name), default=None)
