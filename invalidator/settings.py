"""Typed settings: from one TOML file, then from the environment, and refused by full name where they cannot work.

    --config FILE, $INVALIDATOR_CONFIG, ./invalidator.toml, /etc/invalidator/invalidator.toml  (the first that is there)
        -> INVALIDATOR_SECTION__KEY=value  (each overrides one key)
        -> password: broker.password_file, or $CREDENTIALS_DIRECTORY/broker-password

Rules of this file:

1. An unknown key is an error that names the key in full and the nearest known one; so is a wrong type.
2. A password never comes from a command line, and never leaves: it is a `Secret` as soon as it is read.
3. A file that holds a password and that everybody on the machine can read is refused.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct

from invalidator.errors import ConfigurationError

SYSTEM_FILE = Path("/etc/invalidator/invalidator.toml")
ENVIRONMENT_PREFIX = "INVALIDATOR_"
#: Variables with our prefix that are not settings.
NOT_SETTINGS = {"INVALIDATOR_CONFIG", "INVALIDATOR_REQUIRE"}

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
#: A word that becomes part of queue names and routing keys.
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$")]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Secret:
    """A password that prints as asterisks; `reveal()` gives it to the one place that sends it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "********"


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; unknown keys are refused before msgspec sees them, see `_refuse_unknown`."""


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
    #: The fanout exchange that product updates are published to.
    exchange: Name = "product.updates"
    #: The direct exchange that evictions are announced on.
    purged_exchange: Name = "cache.purged"
    #: First part of every queue's name.
    prefix: Word = "invalidator"
    #: The cluster's queue; by default "<prefix>.<cluster>".
    queue: Name | None = None
    #: "active": the worker makes what is missing. "passive": it waits for somebody else to.
    declare: Literal["active", "passive"] = "active"
    #: Unacknowledged deliveries the broker hands to one worker.
    prefetch: Annotated[int, Meta(ge=1, le=65535)] = 2000
    #: Seconds between AMQP heartbeats.
    heartbeat: Annotated[int, Meta(ge=1, le=600)] = 10
    #: Seconds for a connection to be made and for a declaration to be answered.
    connect_timeout: Seconds = 5.0
    #: Seconds for the broker to confirm a publish.
    publish_timeout: Seconds = 5.0


class PreviousRing(_Section, frozen=True, kw_only=True):
    """``[ring.previous]``: the ring that clients are moving away from; keys are evicted on its owners too."""

    kind: Literal["rendezvous", "ketama"] = "rendezvous"
    #: As in `[ring]`.
    nodes: dict[Word, str] | list[str] = []


class RingSettings(_Section, frozen=True, kw_only=True):
    """``[ring]``: the memcached nodes of this cluster, and how clients place keys on them."""

    kind: Literal["rendezvous", "ketama"] = "rendezvous"
    #: Label -> "host:port"; a plain list of addresses labels each node with its address.
    nodes: dict[Word, str] | list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:11211"])
    previous: PreviousRing | None = None


class MemcachedSettings(_Section, frozen=True, kw_only=True):
    """``[memcached]``: how keys are evicted."""

    #: "every-node": right with any client. "owner": on the key's own node only, when every client shares the ring.
    evict_on: Literal["every-node", "owner"] = "every-node"
    #: What the applications' client puts before every key (pymemcache's key_prefix).
    prefix: Annotated[str, Meta(max_length=200, pattern=r"^[\x21-\x7e]*$")] = ""
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


class LogSettings(_Section, frozen=True, kw_only=True):
    """``[log]``: lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: "auto": readable on a terminal, JSON elsewhere.
    format: Literal["auto", "console", "json"] = "auto"


class RuleSettings(_Section, frozen=True, kw_only=True):
    """One ``[[rule]]``: what an event of one type means for the cache."""

    #: The event's type.
    on: Annotated[str, Meta(min_length=1)]
    #: Key templates, see `invalidator.rules`.
    evict: Annotated[list[str], Meta(min_length=1)]


class Settings(_Section, frozen=True, kw_only=True):
    """All settings, checked; what `load` returns."""

    #: The memcached nodes that one fleet of applications shares go by this name.
    cluster: Word = "main"
    broker: BrokerSettings = BrokerSettings()
    ring: RingSettings = RingSettings()
    memcached: MemcachedSettings = MemcachedSettings()
    worker: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    rule: list[RuleSettings] = []

    def nodes(self) -> dict[str, tuple[str, int]]:
        """Every node that may hold a key, of today's ring and the previous one: label -> (host, port)."""
        known = labelled(self.ring.nodes)
        if self.ring.previous:
            known = labelled(self.ring.previous.nodes) | known
        return known


def labelled(nodes: dict[str, str] | list[str]) -> dict[str, tuple[str, int]]:
    """Label -> (host, port) of a ring's nodes, in the file's order."""
    if isinstance(nodes, list):
        nodes = {address: address for address in nodes}
    return {label: split_address(address, default_port=11211) for label, address in nodes.items()}


def split_address(address: str, *, default_port: int) -> tuple[str, int]:
    """Host and port of "host", "host:port" or "[::1]:port".

    Raises:
        ConfigurationError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]+))(?::(?P<port>\d{1,5}))?", address)
    port = int(match["port"] or default_port) if match else 0
    if not match or not 0 < port < 65536:
        raise ConfigurationError(f'"{address}" is no address: write host:port, as in 127.0.0.1:{default_port}')
    return match["six"] or match["host"], port


def find(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file that `load` would read; None where there is none and defaults serve."""
    if path:
        return path
    if named := environ.get("INVALIDATOR_CONFIG"):
        return Path(named)
    return next((file for file in (Path("invalidator.toml"), SYSTEM_FILE) if file.exists()), None)


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the file that `find` finds and the environment.

    Raises:
        ConfigurationError: a file, key, value or secret cannot work as it stands; the message names it and the mend.
    """
    file = find(path, environ)
    tables = _read(file) if file else {}
    _refuse_unknown(Settings, tables, f"in {file}")
    _override(tables, environ)
    try:
        settings = msgspec.convert(tables, Settings, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_in_our_words(error)) from error
    settings = msgspec.structs.replace(settings, broker=_with_password(settings.broker, environ))
    _check(settings)
    return settings


def masked(url: str) -> str:
    """A URL as it may be printed: its password, if any, as asterisks."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:********@", url)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            tables = tomllib.load(stream)
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error
    if mode & stat.S_IROTH and _holds_password(tables):
        raise ConfigurationError(
            f"{file} holds a password and everybody on this machine can read it: chmod o-r {file}, "
            "or put the password into a file of its own (broker.password_file)"
        )
    return tables


def _holds_password(tables: dict[str, Any]) -> bool:
    broker = tables.get("broker")
    if not isinstance(broker, dict):
        return False
    # guest:guest opens nothing from another machine: RabbitMQ takes it from loopback only.
    password = urlsplit(str(broker.get("url", ""))).password
    return "password" in broker or password not in (None, "", "guest")


def _refuse_unknown(section: type[Struct], table: Any, where: str, path: str = "") -> None:
    if not isinstance(table, dict):
        return  # a wrong type, which msgspec names
    hints = get_type_hints(section)
    for key, value in table.items():
        name = f"{path}{key}"
        if key not in hints:
            raise ConfigurationError(f'unknown setting "{name}" {where}{_nearest(name, section, path)}')
        for inner in _sections(hints[key]):
            for item in value if isinstance(value, list) else [value]:
                _refuse_unknown(inner, item, where, f"{name}.")


def _nearest(name: str, section: type[Struct], path: str) -> str:
    known = [f"{path}{field}" for field in get_type_hints(section)]
    close = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name, _all_names(), n=1)
    return f': did you mean "{close[0]}"?' if close else f": known are {', '.join(known)}"


def _all_names(section: type[Struct] = Settings, path: str = "") -> list[str]:
    names = []
    for field, hint in get_type_hints(section).items():
        names.append(f"{path}{field}")
        for inner in _sections(hint):
            names += _all_names(inner, f"{path}{field}.")
    return names


def _sections(hint: Any) -> list[type[Struct]]:
    """The tables inside a field's type: `PreviousRing | None` and `list[RuleSettings]` hold one each."""
    if isinstance(hint, type) and issubclass(hint, Struct):
        return [hint]
    return [inner for argument in get_args(hint) for inner in _sections(argument)]


def _override(tables: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, value in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in NOT_SETTINGS:
            continue
        *sections, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        table, path = tables, ""
        section: type[Struct] = Settings
        for name in sections:
            inner = _sections(get_type_hints(section).get(name))
            if not inner:
                raise _unknown_variable(variable, f"{path}{name}", section, path)
            section, path = inner[0], f"{path}{name}."
            table = table.setdefault(name, {})
        if key not in get_type_hints(section):
            raise _unknown_variable(variable, f"{path}{key}", section, path)
        table[key] = _from_text(value, get_type_hints(section)[key], variable)


def _unknown_variable(variable: str, name: str, section: type[Struct], path: str) -> ConfigurationError:
    close = difflib.get_close_matches(variable, _variables(), n=1)
    hint = f": did you mean {close[0]}?" if close else _nearest(name, section, path)
    return ConfigurationError(f'unknown setting "{name}" in the environment variable {variable}{hint}')


def _variables() -> list[str]:
    return [ENVIRONMENT_PREFIX + name.replace(".", "__").upper() for name in _all_names()]


def _from_text(value: str, hint: Any, variable: str) -> Any:
    """A variable's text as its setting's type: lists and tables as JSON, else what the text says."""
    origins = {get_origin(part) or part for part in (get_args(hint) if _is_union(hint) else (hint,))}
    if origins & {list, dict}:
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f'{variable} must be JSON, as in ["127.0.0.1:11211"]: {error}') from error
    if Secret in origins:
        return value
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f'{variable}="{value}": {error}') from error


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


_T = TypeVar("_T")


def _decode_secret(kind: type[_T], value: object) -> _T:
    if kind is Secret and isinstance(value, str):
        return kind(value)  # type: ignore[call-arg]
    raise msgspec.ValidationError("Expected `str`")


def _in_our_words(error: msgspec.ValidationError) -> str:
    text, _, path = str(error).partition(" - at `$")
    name = path.rstrip("`").lstrip(".").replace("[...]", "[]")
    return f'setting "{name}": {text}' if name else text


def _with_password(broker: BrokerSettings, environ: Mapping[str, str]) -> BrokerSettings:
    """The broker's settings with the password taken out of the URL, from wherever it was given."""
    try:
        parts = urlsplit(broker.url)
        address, port, in_url = parts.hostname, parts.port, parts.password
    except ValueError as error:
        raise ConfigurationError(f'setting "broker.url": {masked(broker.url)} is no URL: {error}') from error
    if parts.scheme not in ("amqp", "amqps") or not address:
        raise ConfigurationError(
            f'setting "broker.url": {masked(broker.url)} should read amqp://user@host:port/vhost (or amqps://)'
        )
    secret = broker.password or _password_from_file(broker, environ) or (Secret(unquote(in_url)) if in_url else None)
    host = f"[{address}]" if ":" in address else address
    netloc = f"{parts.username or 'guest'}@{host}:{port or (5671 if parts.scheme == 'amqps' else 5672)}"
    path = f"/{quote(broker.vhost, safe='')}" if broker.vhost is not None else parts.path
    url = urlunsplit((parts.scheme, netloc, path, parts.query, ""))
    return msgspec.structs.replace(broker, url=url, password=secret)


def _password_from_file(broker: BrokerSettings, environ: Mapping[str, str]) -> Secret | None:
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if broker.password_file:
        file = Path(broker.password_file)
    elif credentials and (file := Path(credentials, "broker-password")).exists():
        pass
    else:
        return None
    try:
        return Secret(file.read_text().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f'setting "broker.password_file": cannot read {file}: {error}') from error


def _check(settings: Settings) -> None:
    """What types cannot say."""
    for address in settings.broker.alternates:
        split_address(address, default_port=5672)
    if not settings.nodes():
        raise ConfigurationError('setting "ring.nodes": a cluster has at least one node')
    if settings.ring.previous:
        today, before = labelled(settings.ring.nodes), labelled(settings.ring.previous.nodes)
        for label in today.keys() & before.keys():
            if today[label] != before[label]:
                raise ConfigurationError(f'setting "ring.previous.nodes": "{label}" has another address in ring.nodes')
    for label in settings.nodes():
        msgspec.convert(label, Word)
