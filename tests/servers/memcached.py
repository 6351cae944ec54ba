"""A private memcached process."""

import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

from .process import Server, ServerError, free_port


def memcached_is_installed() -> bool:
    return shutil.which("memcached") is not None


def memcached_has_tls() -> bool:
    return "--enable-ssl" in subprocess.run(["memcached", "-h"], capture_output=True, text=True, check=False).stdout


class Memcached(Server):
    """One memcached process. Started again, it is empty and has the same address."""

    def __init__(self, *arguments: str, port: int | None = None, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.arguments = arguments
        self.port = port or free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def restart(self) -> None:
        self.kill()
        self.start()

    def get(self, key: str) -> bytes | None:
        answer = self.command(f"get {key}\r\n".encode(), end=b"END\r\n")
        if answer == b"END\r\n":
            return None
        head, _, rest = answer.partition(b"\r\n")
        return rest[: int(head.split()[3])]

    def set(self, key: str, value: bytes, *, expire: int = 0, flags: int = 0) -> None:
        request = f"set {key} {flags} {expire} {len(value)}\r\n".encode() + value + b"\r\n"
        if (answer := self.command(request)) != b"STORED\r\n":
            raise ServerError(f"set {key}: {answer!r}")

    def delete(self, key: str) -> bool:
        """Delete a key; return True if it was there."""
        return self.command(f"delete {key}\r\n".encode()) == b"DELETED\r\n"

    def flush(self) -> None:
        self.command(b"flush_all\r\n")

    def stats(self) -> dict[str, str]:
        lines = self.command(b"stats\r\n", end=b"END\r\n").decode().splitlines()[:-1]
        return {name: value for _, name, value in (line.split(" ", 2) for line in lines)}

    def command(self, request: bytes, *, end: bytes = b"\r\n", timeout: float = 10.0) -> bytes:
        """Send a request on a connection of its own; return the answer up to and including `end`."""
        answer = b""
        with self._connect(timeout) as connection:
            connection.sendall(request)
            while not answer.endswith(end):
                if not (more := connection.recv(65536)):
                    raise ServerError(f"memcached {self.address} closed the connection after {answer!r}")
                answer += more
        return answer

    def _connect(self, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def _command(self) -> list[str]:
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", *user, *self.arguments]

    def _answers(self) -> bool:
        try:
            return self.command(b"version\r\n").startswith(b"VERSION ")
        except (OSError, ServerError):
            return False


class SecureMemcached(Memcached):
    """A process that requires a login, and TLS if `tls` is a folder with `server.pem` and `server-key.pem`."""

    def __init__(self, *, tls: Path | None = None, login: tuple[str, str] = ("shop", "hush")) -> None:
        super().__init__()
        self._tls = tls
        self._login = " ".join(login).encode()
        users = self.folder / "users"
        users.write_text(":".join(login) + "\n")
        users.chmod(0o644)
        self.arguments = ("-Y", str(users))
        if tls:
            files = f"ssl_chain_cert={tls / 'server.pem'},ssl_key={tls / 'server-key.pem'}"
            self.arguments += ("-Z", "-o", files)

    def _connect(self, timeout: float) -> socket.socket:
        connection = super()._connect(timeout)
        if self._tls:
            anybody = ssl.create_default_context()
            anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
            connection = anybody.wrap_socket(connection)
        connection.sendall(b"set login 0 -1 %d\r\n%b\r\n" % (len(self._login), self._login))
        if (answer := connection.recv(8)) != b"STORED\r\n":
            raise ServerError(f"memcached {self.address} answers the login with {answer!r}")
        return connection
