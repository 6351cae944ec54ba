"""What can be set, its type and its default; everything an operator may write stands here once.

A ``#:`` comment says what a setting means and its unit; conf/invalidator.toml says it at length.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from invalidator.errors import ConfigurationError

# \Z, not $, which lets a final newline through.
WORD = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}\Z"
LABEL = r"^[A-Za-z0-9:][A-Za-z0-9_.:-]{0,79}\Z"
PRINTABLE = r"^[\x21-\x7e]*\Z"
MANAGEMENT_URL = r"^https?://[^\s/?#@]+(?:/[^\s?#@]*)?\Z"

Count = Annotated[int, Meta(ge=1)]
#: Up to an hour: more is a slip of the unit.
Seconds = Annotated[float, Meta(gt=0, le=3600)]
#: A word that becomes part of queue names and routing keys.
Word = Annotated[str, Meta(pattern=WORD)]
#: The same for a node, which may be called by its address: "::1:11211".
Label = Annotated[str, Meta(pattern=LABEL)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: pymemcache's HashClient, and libmemcached's consistent hashing as pylibmc's behaviours choose it.
RingKind = Literal["rendezvous", "ketama", "ketama-md5", "ketama-weighted"]


class Secret:
    """A password that prints as asterisks; `reveal()` gives it to the one place that sends it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "********"


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class BrokerSettings(_Section, frozen=True, kw_only=True):
    """``[broker]``: where RabbitMQ is and what our things are called there."""

    #: amqp or amqps, user, first address and vhost.
    url: str = "amqp://guest:guest@127.0.0.1:5672/"
    #: Further broker nodes, "host:port", tried in turn after the one in `url`.
    alternates: list[str] = []
    #: Instead of the one in `url`.
    vhost: str | None = None
    password: Secret | None = None
    password_file: str | None = None
    #: Of amqps, as PEM files: the CA certificates to trust, instead of the system's.
    tls_ca: str | None = None
    #: Our own certificate, with those between it and its CA, for who asks for one; and its key, if in another file.
    tls_certificate: str | None = None
    tls_key: str | None = None
    #: The name that the broker's certificate must be for, instead of the host in its address.
    tls_server_name: Name | None = None
    #: The fanout exchange that product updates are published to.
    exchange: Name = "product.updates"
    #: The direct exchange that evictions are announced on.
    purged_exchange: Name = "cache.purged"
    #: First part of every queue's name.
    prefix: Word = "invalidator"
    #: Queues whose names begin so may be sent receipts, too; direct reply-to always may.
    reply_prefix: Name | None = None
    #: The cluster's queue; by default "<prefix>.<cluster>".
    queue: Name | None = None
    #: "active": the worker makes what is missing. "passive": it waits for somebody else to.
    declare: Literal["active", "passive"] = "active"
    #: "tap": deliveries are read straight off the transport; "aio-pika": through the library, at ten times the cost.
    consumer: Literal["tap", "aio-pika"] = "tap"
    #: Unacknowledged deliveries the broker hands to one worker.
    prefetch: Annotated[int, Meta(ge=1, le=65535)] = 2000
    #: Seconds between AMQP heartbeats.
    heartbeat: Annotated[int, Meta(ge=1, le=600)] = 10
    #: Seconds for a connection to be made and for a declaration to be answered.
    connect_timeout: Seconds = 5.0
    #: Seconds for the broker to confirm a publish.
    publish_timeout: Seconds = 5.0


class ManagementSettings(_Section, frozen=True, kw_only=True):
    """``[management]``: RabbitMQ's HTTP API, which commands ask; no worker needs it."""

    #: http or https, without a user; by default port 15672 of the host in broker.url.
    url: Annotated[str, Meta(pattern=MANAGEMENT_URL)] | None = None
    #: By default the broker's user and password. It needs the tag "management".
    user: Name | None = None
    password: Secret | None = None
    password_file: str | None = None
    #: Every cluster there should be, where the API cannot be asked which queues are bound.
    expect: list[Word] = []
    #: For https: the CA certificates to trust; by default those of `broker.tls_ca`.
    tls_ca: str | None = None


class PreviousRing(_Section, frozen=True, kw_only=True):
    """``[ring.previous]``: the ring that clients are moving away from; keys are evicted on its owners too."""

    kind: RingKind = "rendezvous"
    #: As in `[ring]`.
    nodes: dict[Label, str] | list[str] = []


class RingSettings(_Section, frozen=True, kw_only=True):
    """``[ring]``: the memcached nodes of this cluster, and how clients place keys on them."""

    kind: RingKind = "rendezvous"
    #: Label -> "host:port"; a plain list of addresses labels each node with its address.
    nodes: dict[Label, str] | list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:11211"])
    previous: PreviousRing | None = None


class MemcachedSettings(_Section, frozen=True, kw_only=True):
    """``[memcached]``: how keys are evicted."""

    #: "every-node": right with any client. "owner": on the key's own node only, when every client shares the ring.
    evict_on: Literal["every-node", "owner"] = "every-node"
    #: What the applications' client puts before every key (pymemcache's key_prefix).
    prefix: Annotated[str, Meta(max_length=200, pattern=PRINTABLE)] = ""
    #: Whether the nodes speak TLS (memcached -Z). The files and the name are as in `[broker]`.
    tls: bool = False
    tls_ca: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_server_name: Name | None = None
    #: For nodes that ask who we are (memcached -Y).
    user: Annotated[str, Meta(min_length=1, max_length=200, pattern=PRINTABLE)] | None = None
    password: Secret | None = None
    password_file: str | None = None
    #: Seconds without a confirmation after which a node counts as hung.
    deadline: Seconds = 1.0
    #: Keys that share one fence.
    chunk_keys: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    #: Fences outstanding on one node.
    chunks_in_flight: Annotated[int, Meta(ge=1, le=64)] = 4


class WorkerSettings(_Section, frozen=True, kw_only=True):
    """``[worker]``: how much at a time."""

    #: Events in one batch, at most.
    batch_events: Count = 1000
    #: Batches being evicted while the next one gathers.
    batches_in_flight: Annotated[int, Meta(ge=1, le=16)] = 2
    #: Seconds that SIGTERM leaves to finish what is held.
    stop_within: Seconds = 5.0
    #: Keys owed to one node, above which the debt becomes one "flush this node before use".
    parked_limit: Count = 1_000_000
    #: Bytes of events held in memory, above which reading from the broker pauses.
    buffer_bytes: Count = 67_108_864


class LimitSettings(_Section, frozen=True, kw_only=True):
    """``[limits]``: above these an event is a dead letter."""

    #: Bytes of one event's body.
    body_bytes: Count = 262_144
    #: Keys that one event may evict.
    event_keys: Count = 10_000


class OutboxSettings(_Section, frozen=True, kw_only=True):
    """``[outbox]``: the table that `invalidator relay` publishes from; no worker needs it."""

    #: SQLAlchemy's URL of the application's database: postgresql or sqlite. It may hold a password.
    url: Secret | None = None
    #: The table, where it is not called so.
    table: Name = "invalidator_outbox"
    #: Events read at a time, at most.
    batch_events: Count = 500
    #: Seconds between two looks at the table, where nothing wakes the relay.
    poll_interval: Seconds = 1.0


class WarmerSettings(_Section, frozen=True, kw_only=True):
    """``[warmer]``: how `invalidator warm` reads again what was evicted; no worker needs it."""

    #: "package.module:function", see `invalidator.warmer`.
    loader: Name | None = None
    #: Keys read again in a second, at most.
    rate: Annotated[float, Meta(gt=0, le=100_000)] = 50.0
    #: Keys being read at a time, at most.
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 4
    #: Hot keys that wait to be read; beyond them those that wait longest are dropped.
    waiting: Count = 1000


class LogSettings(_Section, frozen=True, kw_only=True):
    """``[log]``: lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: "auto": readable on a terminal, JSON elsewhere.
    format: Literal["auto", "console", "json"] = "auto"


class MetricsSettings(_Section, frozen=True, kw_only=True):
    """``[metrics]``: numbers for Prometheus, and health, over HTTP."""

    #: "host:port", or "off".
    listen: str = "127.0.0.1:9871"

    def address(self) -> tuple[str, int] | None:
        """Host and port; None where nothing is to be served. Raises as `split_address`."""
        return None if self.listen == "off" else split_address(self.listen, default_port=9871)


class RuleSettings(_Section, frozen=True, kw_only=True):
    """One ``[[rule]]``: what an event of one type means for the cache."""

    #: The event's type.
    on: Annotated[str, Meta(min_length=1)]
    #: Key templates, see `invalidator.events.templates`.
    evict: Annotated[list[str], Meta(min_length=1)]
    #: Seconds after which the same keys are evicted once more.
    again_after: Annotated[float, Meta(ge=0.001, le=3600)] | None = None

    @property
    def again_ms(self) -> int | None:
        """As RabbitMQ counts: milliseconds."""
        return None if self.again_after is None else round(self.again_after * 1000)


class Settings(_Section, frozen=True, kw_only=True):
    """All settings, checked; what `load` returns."""

    #: The memcached nodes that one fleet of applications shares go by this name.
    cluster: Word = "main"
    broker: BrokerSettings = BrokerSettings()
    management: ManagementSettings = ManagementSettings()
    ring: RingSettings = RingSettings()
    memcached: MemcachedSettings = MemcachedSettings()
    worker: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    outbox: OutboxSettings = OutboxSettings()
    warmer: WarmerSettings = WarmerSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    rule: list[RuleSettings] = []

    def nodes(self) -> dict[str, tuple[str, int]]:
        """Every node that may hold a key, of today's ring and the previous one: label -> (host, port)."""
        known = labelled(self.ring.nodes)
        if self.ring.previous:
            known = labelled(self.ring.previous.nodes) | known
        return known


def labelled(nodes: dict[str, str] | list[str]) -> dict[str, tuple[str, int]]:
    """Label -> (host, port) of a ring's nodes, in the file's order.

    Nodes of a plain list are labelled "host:port", port 11211 included, as pymemcache's HashClient labels them.

    Raises:
        ConfigurationError: an address is none, or two nodes have the same one.
    """
    named: dict[str, tuple[str, int]] = {}
    for name, text in nodes.items() if isinstance(nodes, dict) else ((None, text) for text in nodes):
        address = split_address(text, default_port=11211)
        if address in named.values():
            raise ConfigurationError(f'"{text}" stands there twice: write each node once')
        named[name or f"{address[0]}:{address[1]}"] = address
    return named


def split_address(address: str, *, default_port: int) -> tuple[str, int]:
    """Host and port of "host", "host:port" or "[::1]:port".

    Raises:
        ConfigurationError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]+))(?::(?P<port>\d{1,5}))?", address)
    port = int(match["port"] or default_port) if match else 0
    if not match or not 0 < port < 65536:
        shown = address.rpartition("@")[2]  # what stands before it may be a password
        raise ConfigurationError(f'"{shown}" is no address: write host:port, as in 127.0.0.1:{default_port}')
    return match["six"] or match["host"], port
