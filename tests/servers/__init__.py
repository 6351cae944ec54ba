"""Private servers for tests and the demo: a RabbitMQ node, memcached processes, PostgreSQL, MariaDB, Prometheus,
systemd, and a TCP proxy that misbehaves.

Rules of this package:

1. It imports the standard library only, so that it runs before anything is installed.
2. Every port is a free one on loopback and every file is in a folder of its own, so no service of this machine is
   touched.
3. No server outlives the process that started it, even if that process is killed with SIGKILL.

As a command, `python -m tests.servers up | down | status` keeps a set running in the background (one broker, two
clusters of three memcached nodes), and `python -m tests.servers run -- COMMAND` runs COMMAND with such a set.
"""

from .broker import Broker, rabbitmq_is_installed
from .mariadb import Mariadb, mariadb_is_installed
from .memcached import Memcached, SecureMemcached, memcached_has_tls, memcached_is_installed
from .pgbouncer import PgBouncer, pgbouncer_is_installed
from .postgres import Postgres, postgres_is_installed
from .process import ServerError, free_port
from .prometheus import Prometheus, prometheus_is_installed
from .proxy import TcpProxy, Way
from .systemd import Systemd, systemd_is_installed

__all__ = [
    "Broker",
    "Mariadb",
    "Memcached",
    "PgBouncer",
    "Postgres",
    "Prometheus",
    "SecureMemcached",
    "ServerError",
    "Systemd",
    "TcpProxy",
    "Way",
    "free_port",
    "mariadb_is_installed",
    "memcached_has_tls",
    "memcached_is_installed",
    "pgbouncer_is_installed",
    "postgres_is_installed",
    "prometheus_is_installed",
    "rabbitmq_is_installed",
    "systemd_is_installed",
]
