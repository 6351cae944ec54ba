"""The loader of settings, and their sources.

    --config FILE, $INVALIDATOR_CONFIG, ./invalidator.toml, /etc/invalidator/invalidator.toml  (the first that exists)
        -> INVALIDATOR_SECTION__KEY=value  (each overrides one key; lists and tables as JSON)
        -> password: broker.password, or broker.password_file, or $CREDENTIALS_DIRECTORY/broker-password, or broker.url

Rules of this file:

1. An unknown key is an error that names the key in full and the nearest known one. A wrong type is an error too.
2. A password never comes from a command line and is never printed. It is a `Secret` as soon as it is read, and the URL
   is stored without it. An error message never quotes a URL.
3. A configuration file that holds a password and is world-readable is refused. (A password_file is not, because
   container secrets are mounted that way.)
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from invalidator.errors import ConfigurationError
from invalidator.settings.address import Address, labelled, split_address
from invalidator.settings.environment import override
from invalidator.settings.names import IN_WORDS, in_our_words, refuse_unknown
from invalidator.settings.password import (
    decode_secret,
    holds_password,
    is_there,
    with_management_password,
    with_memcached_password,
    with_password,
)
from invalidator.settings.schema import LABEL, BrokerSettings, MemcachedSettings, Settings

SYSTEM_FILE = Path("/etc/invalidator/invalidator.toml")


def find(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the configuration file that `load` would read, or None if no file exists and the defaults apply."""
    if path:
        return path
    if named := environ.get("INVALIDATOR_CONFIG"):
        return Path(named)
    return next((file for file in (Path("invalidator.toml"), SYSTEM_FILE) if is_there(file)), None)


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings from the file that `find` returns and from the environment.

    Raises:
        ConfigurationError: a file, key, value or secret cannot work; the message names it and the fix.
    """
    file = find(path, environ)
    tables = _read(file) if file else {}
    refuse_unknown(Settings, tables, f"in {file}")
    override(tables, environ)
    try:
        settings = msgspec.convert(tables, Settings, dec_hook=decode_secret)
    except msgspec.ValidationError as error:
        raise ConfigurationError(in_our_words(error)) from error
    settings = msgspec.structs.replace(
        settings,
        broker=with_password(settings.broker, environ),
        management=with_management_password(settings.management),
        memcached=with_memcached_password(settings.memcached, environ),
    )
    _check(settings)
    return settings


def with_passwords_read_again(
    settings: Settings, path: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings in force, with the passwords of broker and nodes as they are configured now.

    While the file cannot be loaded, for example because somebody is editing it, the settings in force stay as they are.
    """
    try:
        now = load(path, environ)
    except ConfigurationError:
        return settings
    return msgspec.structs.replace(
        settings,
        broker=msgspec.structs.replace(settings.broker, password=now.broker.password),
        memcached=msgspec.structs.replace(settings.memcached, password=now.memcached.password),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            tables = tomllib.load(stream)
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error
    if mode & stat.S_IROTH and holds_password(tables):
        raise ConfigurationError(
            f"{file} holds a password and is readable by every user of this machine: chmod o-r {file}, "
            "or put the password into a file of its own (broker.password_file)"
        )
    return tables


def _check(settings: Settings) -> None:
    """Check the rules that types cannot express."""
    _check_tls(settings)
    ring = settings.ring
    today = _checked_nodes("ring.nodes", ring.nodes)
    before = _checked_nodes("ring.previous.nodes", ring.previous.nodes) if ring.previous else {}
    if settings.memcached.tls and (paths := [each.path for each in (today | before).values() if each.path]):
        raise ConfigurationError(
            f'setting "memcached.tls": memcached speaks no TLS on a UNIX socket, and {paths[0]} is one'
        )
    for label in today.keys() & before.keys():
        if today[label] != before[label]:
            raise ConfigurationError(f'setting "ring.previous.nodes": "{label}" has another address in ring.nodes')
    for address in settings.broker.alternates:
        try:
            split_address(address, default_port=5672)
        except ConfigurationError as error:
            raise ConfigurationError(f'setting "broker.alternates": {error}') from error
    try:
        settings.metrics.address()
    except ConfigurationError as error:
        raise ConfigurationError(f'setting "metrics.listen": {error}') from error


def _check_tls(settings: Settings) -> None:
    """Read the TLS files once now, so that a mistake in them is found at the start."""
    if settings.broker.url.startswith("amqps:"):
        _read_tls_files(settings.broker, "broker")
    else:
        _refuse_tls(settings.broker, "broker", "broker.url is amqp://: write amqps:// (usually on port 5671)")
    if settings.memcached.tls:
        _read_tls_files(settings.memcached, "memcached")
    else:
        _refuse_tls(settings.memcached, "memcached", "memcached.tls is false")


def _read_tls_files(section: BrokerSettings | MemcachedSettings, where: str) -> None:
    from invalidator.settings.tls import tls_context  # noqa: PLC0415  loads OpenSSL

    tls_context(section, where)


def _refuse_tls(section: Struct, where: str, why: str) -> None:
    for name in section.__struct_fields__:
        if name.startswith("tls_") and getattr(section, name) is not None:
            raise ConfigurationError(f'setting "{where}.{name}" is for TLS, but {why}')


def _checked_nodes(name: str, nodes: dict[str, str] | list[str]) -> dict[str, Address]:
    try:
        known = labelled(nodes)
    except ConfigurationError as error:
        raise ConfigurationError(f'setting "{name}": {error}') from error
    if not known:
        raise ConfigurationError(f'setting "{name}": a ring needs at least one node')
    for label in known:
        if not re.match(LABEL, label):
            raise ConfigurationError(f'setting "{name}": the label "{label}" should be {IN_WORDS[LABEL]}')
    return known
