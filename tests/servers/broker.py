"""A private RabbitMQ node."""

import base64
import contextlib
import http.client
import json
import os
import secrets
import shlex
import socket
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

from .process import Server, ServerError, free_port

#: Debian's scripts themselves, because the wrappers in /usr/sbin insist on the user root or rabbitmq.
RABBITMQ_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
#: The limits beyond which the node raises an alarm.
MEMORY, DISK = "2GB", "50MB"
#: Age of the figures in the management API, at most. Together with HURRY it makes them about a second old. By default
#: they are up to ten seconds old, and a test would have to wait for them.
STATISTICS_MS = 500
#: The same of a quorum queue's counts. On RabbitMQ 3.10 a queue crashes if its first tick comes before its leader is
#: ready, and the connection that declares it is closed (541). So a busy machine needs a long one.
TICK_MS = 1500
HURRY = f"""[
  {{rabbit, [{{quorum_tick_interval, {TICK_MS}}}]}},
  {{rabbitmq_management, [
    {{sample_retention_policies, [{{global, [{{600, 1}}]}}, {{basic, [{{600, 1}}]}}, {{detailed, [{{600, 1}}]}}]}}
  ]}}
].
"""


def rabbitmq_is_installed() -> bool:
    return (RABBITMQ_SCRIPTS / "rabbitmq-server").exists()


class Epmd(Server):
    """Erlang's port mapper on a port of its own. The machine's own, on 4369, is neither used nor started."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    def _command(self) -> list[str]:
        return ["epmd", "-port", str(self.port), "-address", "127.0.0.1"]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Broker(Server):
    """A RabbitMQ node with the management plugin; with `peer`, a further node of that (running) node's cluster.

    `tls` is the folder of `ca.pem`, `server.pem` and `server-key.pem`. With it, the node also listens at `tls_url` for
    clients that have a certificate of that CA, and serves the management API at `management_tls_url` to everybody.

    User and password are guest. A node that was stopped or killed starts again on the same ports with its old data.
    """

    def __init__(self, folder: Path | None = None, *, peer: "Broker | None" = None, tls: Path | None = None) -> None:
        super().__init__(folder)
        self.tls, self.tls_port, self.management_tls_port = tls, free_port(), free_port()
        self.port, self.management_port, self.inter_node_port = free_port(), free_port(), free_port()
        self.node = f"invalidator-{self.port}@localhost"
        self.peer = peer
        self.cookie: str = peer.cookie if peer else secrets.token_hex()
        self.epmd: Epmd = peer.epmd if peer else Epmd(self.folder / "epmd")
        self._version: str | None = None

    def url(self, vhost: str = "/") -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{urllib.parse.quote(vhost, safe='')}"

    def tls_url(self, vhost: str = "/") -> str:
        return self.url(vhost).replace("amqp:", "amqps:").replace(f":{self.port}/", f":{self.tls_port}/")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}"

    @property
    def management_tls_url(self) -> str:
        return f"https://127.0.0.1:{self.management_tls_port}"

    @property
    def version(self) -> str:
        """RabbitMQ's version, like `3.10.8`. The node has to answer for it."""
        if self._version is None:
            self._version = str(self.api("GET", "/overview")["rabbitmq_version"])
        return self._version

    def start(self) -> None:
        """Return once the node speaks AMQP and its management API answers, after about five seconds."""
        self._write_configuration()
        if not self.epmd.running:
            self.epmd.start()
        super().start()

    def close(self) -> None:
        self.kill()
        if self.peer is None:
            self.epmd.kill()
        super().close()

    def heal(self) -> None:
        """Undo what was done to the node: let it run, answer, stand alone, take messages, and hold nothing in `/`."""
        if self.running:
            self.resume()
        if not self._answers():
            self.kill()
            self.start()
        for node in self.api("GET", "/nodes"):
            if not node["running"]:
                self.ctl("forget_cluster_node", node["name"])
        if self._is_alarmed():
            self.ctl("set_vm_memory_high_watermark", "absolute", MEMORY)
            self.ctl("set_disk_free_limit", DISK)
        if self.api("GET", "/queues/%2F"):
            self.delete_vhost("/")
            self.add_vhost("/")

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` and return its output. It takes half a second, so prefer `api`. Raises ServerError."""
        command = [str(RABBITMQ_SCRIPTS / "rabbitmqctl"), "--node", self.node, *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def remember(self) -> None:
        """Have the node write recent declarations to disk, so that they survive a kill.

        It does so by itself within a second or so. RabbitMQ 3.10 loses newer ones: bindings, and the name by which its
        Raft log knows a quorum queue.
        """
        self.ctl("eval", "catch mnesia:sync_log(), catch dets:sync(ra_directory_reverse).")

    def tool(self, name: str) -> str:
        """Return a shell script that runs `rabbitmqctl`, or one of its siblings, on this node."""
        ours = {name: value for name, value in self._environment().items() if os.environ.get(name) != value}
        words = ["exec", "env", *(f"{name}={value}" for name, value in ours.items()), f"{RABBITMQ_SCRIPTS}/{name}"]
        return f'#!/bin/sh\n{shlex.join(words)} --node {self.node} "$@"\n'

    def add_vhost(self, name: str) -> str:
        """Create a vhost that guest may use, and return its AMQP URL."""
        self.api("PUT", f"/vhosts/{urllib.parse.quote(name, safe='')}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/permissions/{urllib.parse.quote(name, safe='')}/guest", everything)
        return self.url(name)

    def delete_vhost(self, name: str) -> None:
        self.api("DELETE", f"/vhosts/{urllib.parse.quote(name, safe='')}")

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API (`path` without /api) and return the decoded answer, or None if it is empty.

        Raises ServerError for any status from 400 up.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=30)
        login = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, f"/api{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 400:
            raise ServerError(f"{method} /api{path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def _command(self) -> list[str]:
        return [str(RABBITMQ_SCRIPTS / "rabbitmq-server")]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                if probe.recv(1) != b"\x01":
                    return False
            return bool(self.api("GET", "/overview"))
        except (OSError, http.client.HTTPException, ServerError):
            return False

    def _is_alarmed(self) -> bool:
        try:
            self.api("GET", "/health/checks/alarms")
        except ServerError:
            return True
        return False

    def _write_configuration(self) -> None:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self.management_port}",
            f"vm_memory_high_watermark.absolute = {MEMORY}",
            f"disk_free_limit.absolute = {DISK}",
            f"collect_statistics_interval = {STATISTICS_MS}",
        ]
        if self.tls:
            for section in ("ssl_options", "management.ssl"):
                lines += [
                    f"{section}.cacertfile = {self.tls / 'ca.pem'}",
                    f"{section}.certfile = {self.tls / 'server.pem'}",
                    f"{section}.keyfile = {self.tls / 'server-key.pem'}",
                ]
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                "management.ssl.ip = 127.0.0.1",
                f"management.ssl.port = {self.management_tls_port}",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
            ]
        if self.peer:
            lines += [
                "cluster_formation.peer_discovery_backend = classic_config",
                f"cluster_formation.classic_config.nodes.1 = {self.peer.node}",
                f"cluster_formation.classic_config.nodes.2 = {self.node}",
            ]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "advanced.config").write_text(HURRY)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(self.cookie)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return inherited | {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self.epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # With this, the script becomes the Erlang VM instead of waiting for it, so that our signals reach the VM.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self.inter_node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
        }
