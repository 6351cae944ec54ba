"""The demo from its first line to its last: servers are checked, then seven acts are played."""

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingConnection
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError, ProbableAccessDeniedError, ProbableAuthenticationError
from pymemcache.exceptions import MemcacheError

from invalidator.errors import RefusedError, UnreachableError
from invalidator.settings import masked

from .acts import Act, Stores, local_bus, no_invalidation, polling
from .audited import audit
from .fanout import fanout
from .race import race
from .report import Report, login, shown
from .stores import Address, InProcessStore, Nodes, memcached_store
from .warming import CONCLUSION, warming
from .workers import Workers

#: Seconds for the management UI to answer before its address is left out.
PATIENCE = 5.0


@dataclass(frozen=True)
class Servers:
    """The servers for the whole story."""

    broker: str
    #: Address of the management UI, if there is one.
    management: str | None
    clusters: Mapping[str, Sequence[Address]]


def perform_embedded(*, polls: int, updates: int) -> None:
    """Play acts 1 to 3, without a server."""
    report = Report()
    report.title("A price changes. How long do caches serve the old one?")
    report.say("No server is used: a dictionary in this process takes memcached's place.")
    stores = {"eu": InProcessStore(), "us": InProcessStore()}
    report.table(_three_acts(report, stores, polls=polls, updates=updates))
    report.say("For acts 4 to 7, with RabbitMQ, memcached and workers, run ./dev demo.")


def perform(servers: Servers, *, polls: int, updates: int, stay: bool) -> None:
    """Play all seven acts. With `stay`, keep everything running afterwards, until Ctrl-C.

    Raises:
        InvalidatorError: a server or worker does not answer. The message names it.
    """
    with _translated_errors(servers.broker):
        _perform(servers, polls=polls, updates=updates, stay=stay)


def _perform(servers: Servers, *, polls: int, updates: int, stay: bool) -> None:
    report = Report()
    report.title("A price changes. How long do caches serve the old one?")
    for name, addresses in servers.clusters.items():
        with closing(Nodes(addresses)) as nodes:
            nodes.check()
        report.say(f"cache {name}: memcached on {', '.join(f'{host}:{port}' for host, port in addresses)}")
    BlockingConnection(pika.URLParameters(servers.broker)).close()  # fail now rather than in act 4
    report.say(f"broker: {shown(servers.broker)}")
    stores = {name: memcached_store(addresses) for name, addresses in servers.clusters.items()}
    acts = _three_acts(report, stores, polls=polls, updates=updates)
    report.title("Act 4: the service publishes to RabbitMQ, and workers evict")
    with Workers(servers.broker, servers.clusters) as workers:
        acts.append(fanout(workers, servers.clusters, servers.broker, report.say, updates=updates))
        report.table(acts)
        report.title("Act 5: a slow reader writes the old price back")
        race(servers.clusters["eu"], servers.broker, report.say)
        report.title("Act 6: hot products are read again before customers ask")
        runs = warming(workers, servers.clusters["eu"], servers.broker, report.say)
        report.loads(runs)
        report.customers(runs)
        report.say(CONCLUSION)
        report.title("Act 7: an old price that was missed is found and removed")
        audit(workers, servers.clusters["eu"], servers.broker, report.say)
        if stay:
            _stay(report, servers)
        else:
            report.say("With --stay, servers and workers keep running, and you can open the management UI.")


def _three_acts(report: Report, stores: Stores, *, polls: int, updates: int) -> list[Act]:
    report.title("Act 1: the caches do not learn of it")
    first = no_invalidation(stores, report.say)
    report.title("Act 2: the caches poll")
    second = polling(stores, report.say, polls=polls)
    report.title("Act 3: the service publishes to a bus in its own process")
    return [first, second, local_bus(stores, report.say, updates=updates)]


def _stay(report: Report, servers: Servers) -> None:
    beside = Path(sys.executable).with_name("invalidator")
    name = beside if beside.exists() and not shutil.which("invalidator") else "invalidator"
    if servers.management and _opens(servers.management):
        report.say(f"Management UI: {login(servers.management, servers.broker)}")
    report.say("Servers and workers keep running until Ctrl-C. To publish from another terminal:")
    report.command(f"INVALIDATOR_BROKER__URL={shown(servers.broker)} {name} publish product_updated id=1")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    report.say("Stopping.")


def _opens(address: str) -> bool:
    """Return True if something answers HTTP at that address."""
    parts = urlsplit(address)
    try:
        with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status < HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, HTTPException, ValueError):
        return False


@contextmanager
def _translated_errors(broker: str) -> Iterator[None]:
    """Translate pika's and pymemcache's errors into ours."""
    try:
        yield
    except (ProbableAuthenticationError, ProbableAccessDeniedError) as error:
        raise RefusedError(f"{masked(broker)} refuses this user, password or vhost: {error!r}") from error
    except (AMQPError, AMQPConnectorException) as error:
        raise UnreachableError(f"{masked(broker)} does not answer as a broker ({error!r}): is it up?") from error
    except (OSError, MemcacheError) as error:
        raise UnreachableError(f"a memcached node or the broker {masked(broker)} is gone: {error!r}") from error
