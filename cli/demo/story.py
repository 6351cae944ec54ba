"""The demo from its first line to its last."""

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingConnection
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError, ProbableAccessDeniedError, ProbableAuthenticationError
from pymemcache.exceptions import MemcacheError

from invalidator.errors import RefusedError, UnreachableError
from invalidator.settings import masked

from .acts import Act, Stores, local_bus, no_invalidation, polling
from .fanout import fanout
from .race import race
from .report import Report, login, shown
from .stores import Address, InProcessStore, Nodes, memcached_store
from .warming import SAVED, warming
from .workers import Workers


@dataclass(frozen=True)
class Servers:
    """What the whole story needs."""

    broker: str
    #: Address of the management UI, if there is one.
    management: str | None
    clusters: Mapping[str, Sequence[Address]]


def tell_embedded(*, polls: int, updates: int) -> None:
    """Acts 1 to 3, with no server."""
    report = Report()
    report.title("A price changes. How long do caches serve the old one?")
    report.say("No server is used: a dictionary in this process stands in memcached's place.")
    stores = {"eu": InProcessStore(), "us": InProcessStore()}
    report.table(_three_acts(report, stores, polls=polls, updates=updates))
    report.say("Acts 4 to 6, with RabbitMQ, memcached and workers: ./dev demo")


def tell(servers: Servers, *, polls: int, updates: int, stay: bool) -> None:
    """All six acts. With `stay` everything runs on afterwards, until Ctrl-C.

    Raises:
        InvalidatorError: a server or worker is not there or stops answering; the message says which.
    """
    with _in_our_words(servers.broker):
        _tell(servers, polls=polls, updates=updates, stay=stay)


def _tell(servers: Servers, *, polls: int, updates: int, stay: bool) -> None:
    report = Report()
    report.title("A price changes. How long do caches serve the old one?")
    for name, addresses in servers.clusters.items():
        with closing(Nodes(addresses)) as nodes:
            nodes.check()
        report.say(f"cache {name}: memcached on {', '.join(f'{host}:{port}' for host, port in addresses)}")
    BlockingConnection(pika.URLParameters(servers.broker)).close()  # better now than in act 4
    report.say(f"broker: {shown(servers.broker)}")
    stores = {name: memcached_store(addresses) for name, addresses in servers.clusters.items()}
    acts = _three_acts(report, stores, polls=polls, updates=updates)
    report.title("Act 4: the service publishes to RabbitMQ, and workers evict")
    with Workers(servers.broker, servers.clusters) as workers:
        acts.append(fanout(workers, servers.clusters, servers.broker, report.say, updates=updates))
        report.table(acts)
        report.title("Act 5: a slow reader brings the old price back")
        race(servers.clusters["eu"], servers.broker, report.say)
        report.title("Act 6: hot products are read again before customers ask")
        runs = warming(workers, servers.clusters["eu"], servers.broker, report.say)
        report.loads(runs)
        report.customers(runs)
        report.say(SAVED)
        if servers.management:
            note = "" if stay else "; --stay keeps it running, to look at"
            report.say(f"Management UI: {login(servers.management, servers.broker)}{note}")
        if stay:
            _stay(report, servers)


def _three_acts(report: Report, stores: Stores, *, polls: int, updates: int) -> list[Act]:
    report.title("Act 1: nobody tells the caches")
    first = no_invalidation(stores, report.say)
    report.title("Act 2: the caches ask")
    second = polling(stores, report.say, polls=polls)
    report.title("Act 3: the service tells a bus in its own process")
    return [first, second, local_bus(stores, report.say, updates=updates)]


def _stay(report: Report, servers: Servers) -> None:
    beside = Path(sys.executable).with_name("invalidator")
    name = beside if beside.exists() and not shutil.which("invalidator") else "invalidator"
    report.say("Servers and workers keep running until Ctrl-C. To publish from another terminal:")
    report.command(f"INVALIDATOR_BROKER__URL={shown(servers.broker)} {name} publish product_updated id=1")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    report.say("Stopping.")


@contextmanager
def _in_our_words(broker: str) -> Iterator[None]:
    """Translate pika's and pymemcache's errors."""
    try:
        yield
    except (ProbableAuthenticationError, ProbableAccessDeniedError) as error:
        raise RefusedError(f"{masked(broker)} refuses this user, password or vhost: {error!r}") from error
    except (AMQPError, AMQPConnectorException) as error:
        raise UnreachableError(f"{masked(broker)} does not answer as a broker ({error!r}): is it up?") from error
    except (OSError, MemcacheError) as error:
        raise UnreachableError(f"a memcached node or the broker {masked(broker)} is gone: {error!r}") from error
