"""Passwords, above all the broker's: read from several places, and kept out of everything that is printed.

    broker.password, or broker.password_file, or $CREDENTIALS_DIRECTORY/broker-password, or the one in broker.url
        -> BrokerSettings with a `Secret`, and a URL without it

An error message about a URL that cannot be parsed never quotes it: a URL that cannot be parsed cannot be masked.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from invalidator.errors import ConfigurationError
from invalidator.settings.broker_url import BrokerUrl
from invalidator.settings.schema import BrokerSettings, ManagementSettings, MemcachedSettings, Secret

#: "//user:password@", up to the last @, because a password with an @ in it is easily pasted unescaped.
_PASSWORD = re.compile(r"(?P<before>//[^:@\s]*:)(?P<password>\S*)@")

_T = TypeVar("_T")


def masked(text: str) -> str:
    """Replace the passwords in a URL, or in a text with URLs, by asterisks."""
    return _PASSWORD.sub(r"\g<before>********@", text)


def holds_password(tables: dict[str, Any]) -> bool:
    """Return True if the tables of a file hold a password worth hiding."""
    for name in ("management", "memcached"):
        if isinstance(section := tables.get(name), dict) and "password" in section:
            return True
    for name in ("outbox", "follow"):
        if isinstance(section := tables.get(name), dict) and _PASSWORD.search(str(section.get("url", ""))):
            return True
    broker = tables.get("broker")
    if not isinstance(broker, dict):
        return False
    in_url = _PASSWORD.search(str(broker.get("url", "")))
    # guest:guest is no use on another machine: RabbitMQ accepts it from loopback only.
    return "password" in broker or (in_url is not None and in_url["password"] not in ("", "guest"))


def decode_secret(kind: type[_T], value: object) -> _T:
    """Convert a value to `Secret`. msgspec calls this for types that it does not know."""
    if kind is Secret and isinstance(value, str):
        return kind(value)  # type: ignore[call-arg]
    raise ValueError("Expected `str`")


def with_password(broker: BrokerSettings, environ: Mapping[str, str]) -> BrokerSettings:
    """Return the broker's settings with the password from its source, and a URL without it."""
    url = BrokerUrl.parse(broker.url, vhost=broker.vhost)
    in_file = _password_from_file("broker", broker.password_file, environ)
    secret = broker.password or in_file or url.password
    return msgspec.structs.replace(broker, url=str(url), password=secret)


def with_memcached_password(memcached: MemcachedSettings, environ: Mapping[str, str]) -> MemcachedSettings:
    """Return the nodes' settings with the password from its source. Without a user there is no password."""
    if not memcached.user:
        if memcached.password or memcached.password_file:
            raise ConfigurationError('setting "memcached.user" is missing: a password is set without a user')
        return memcached
    secret = memcached.password or _password_from_file("memcached", memcached.password_file, environ)
    if not secret:
        raise ConfigurationError('setting "memcached.user" has no password: see memcached.password_file')
    return msgspec.structs.replace(memcached, password=secret)


def _password_from_file(section: str, named: str | None, environ: Mapping[str, str]) -> Secret | None:
    if named:
        file, where = Path(named), f'setting "{section}.password_file"'
    elif credentials := environ.get("CREDENTIALS_DIRECTORY"):
        file, where = Path(credentials, f"{section}-password"), "$CREDENTIALS_DIRECTORY"
        # The systemd unit supplies a file with only a line end if there is no password to load.
        if not is_there(file) or not _text_in(file, where).strip():
            return None
    else:
        return None
    return _secret_in(file, where)


def with_management_password(management: ManagementSettings) -> ManagementSettings:
    """Return the management API's settings with the password from its file, if it has one."""
    if management.password or not management.password_file:
        return management
    secret = _secret_in(Path(management.password_file), 'setting "management.password_file"')
    return msgspec.structs.replace(management, password=secret)


def _secret_in(file: Path, where: str) -> Secret:
    password = _text_in(file, where)
    if not password:
        raise ConfigurationError(f"{where}: {file} is empty")
    return Secret(password)


def _text_in(file: Path, where: str) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"{where}: cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:  # its text contains a piece of the password
        raise ConfigurationError(f"{where}: {file} is not UTF-8") from None


def is_there(file: Path) -> bool:
    """Return True if a file exists, or if we lack the permission to know: then reading it will fail and say so."""
    try:
        return file.exists()
    except PermissionError:
        return True
