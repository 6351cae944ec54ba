"""Settings come from one file and then from the environment, in a fixed order."""

from pathlib import Path
from typing import Any

import pytest

from invalidator.errors import ConfigurationError
from invalidator.settings import find, load
from tests.settings.conftest import loaded, password, refusal, written


def test_without_any_file_the_defaults_apply() -> None:
    settings = load(None, {})
    assert settings.cluster == "main"
    assert settings.nodes() == {"127.0.0.1:11211": ("127.0.0.1", 11211)}
    assert settings.broker.url == "amqp://guest@127.0.0.1:5672/"
    assert password(settings) == "guest"


def test_files_take_precedence_in_their_order(folder: Path) -> None:
    given_file = written(folder / "given.toml", 'cluster = "given"')
    named = written(folder / "named.toml", 'cluster = "named"')
    environ = {"INVALIDATOR_CONFIG": str(named)}
    assert find(None, {}) is None
    written(folder / "etc" / "invalidator.toml", 'cluster = "system"')
    assert load(None, {}).cluster == "system"
    written(folder / "invalidator.toml", 'cluster = "here"')
    assert load(None, {}).cluster == "here"
    assert load(None, environ).cluster == "named"
    assert load(given_file, environ).cluster == "given"


def test_file_that_is_named_and_missing_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the configuration .*missing\.toml: No such file"):
        load(None, {"INVALIDATOR_CONFIG": str(folder / "missing.toml")})


@pytest.mark.parametrize("text", ["cluster = ", 'cluster = "main', "cluster main", "cluster = 'a'\ncluster = 'b'"])
def test_file_that_is_not_toml_is_refused(text: str) -> None:
    assert "given.toml is not TOML" in refusal(text)


def test_file_that_is_not_utf8_is_refused(folder: Path) -> None:
    folder.joinpath("given.toml").write_bytes(b'cluster = "\xff"')
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load(folder / "given.toml", {})


@pytest.mark.parametrize(
    ("variable", "value", "read", "expected"),
    [
        ("CLUSTER", "17", lambda s: s.cluster, "17"),
        ("BROKER__PREFETCH", "50", lambda s: s.broker.prefetch, 50),
        ("BROKER__PUBLISH_TIMEOUT", "0.5", lambda s: s.broker.publish_timeout, 0.5),
        ("BROKER__VHOST", "null", lambda s: s.broker.vhost, "null"),
        ("BROKER__ALTERNATES", '["b:5672", "[::1]:5673"]', lambda s: s.broker.alternates, ["b:5672", "[::1]:5673"]),
        ("MEMCACHED__EVICT_ON", "owner", lambda s: s.memcached.evict_on, "owner"),
        ("RING__NODES", '["m:1"]', lambda s: s.nodes(), {"m:1": ("m", 1)}),
        ("RING__NODES", '{"a": "m:1"}', lambda s: s.nodes(), {"a": ("m", 1)}),
        ("RING__PREVIOUS__KIND", "ketama", lambda s: s.ring.previous.kind, "ketama"),
        ("RULE", '[{"on": "a", "evict": ["b"]}]', lambda s: [(r.on, r.evict) for r in s.rule], [("a", ["b"])]),
        ("BROKER__PASSWORD", "12", password, "12"),
    ],
)
def test_environment_overrides_the_file(variable: str, value: str, read: Any, expected: Any) -> None:
    text = """
        cluster = "eu"
        [broker]
        prefetch = 1
        alternates = ["x:1"]
        password = "from the file"
        [ring]
        nodes = ["x:1"]
        [ring.previous]
        nodes = []
        [[rule]]
        on = "x"
        evict = ["x"]
    """.replace("nodes = []", 'nodes = ["m:1"]' if variable == "RING__PREVIOUS__KIND" else "")
    if variable != "RING__PREVIOUS__KIND":
        text = text.replace("[ring.previous]", "")
    assert expected == read(loaded(text, {f"INVALIDATOR_{variable}": value, "PATH": "/bin"}))


def test_variables_that_are_not_settings_are_ignored() -> None:
    environ = {"INVALIDATOR_REQUIRE": "broker", "PATH": "/bin", "INVALID": "x"}
    assert load(None, environ).cluster == "main"


#: As in the documentation of Kubernetes, "Environment variables" of a Service, for a service called "invalidator".
SERVICE_LINKS = {
    "INVALIDATOR_SERVICE_HOST": "10.0.0.11",
    "INVALIDATOR_SERVICE_PORT": "5672",
    "INVALIDATOR_SERVICE_PORT_AMQP": "5672",
    "INVALIDATOR_PORT": "tcp://10.0.0.11:5672",
    "INVALIDATOR_PORT_5672_TCP": "tcp://10.0.0.11:5672",
    "INVALIDATOR_PORT_5672_TCP_PROTO": "tcp",
    "INVALIDATOR_PORT_5672_TCP_PORT": "5672",
    "INVALIDATOR_PORT_5672_TCP_ADDR": "10.0.0.11",
    "INVALIDATOR_PORT_9871_UDP": "udp://[fd00::11]:9871",
    "INVALIDATOR_WORKER_EU_SERVICE_HOST": "fd00::11",
    "INVALIDATOR_METRICS_PORT": "tcp://10.0.0.11:9871",
}


def test_service_links_of_kubernetes_are_ignored() -> None:
    assert repr(load(None, {})) == repr(load(None, SERVICE_LINKS))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INVALIDATOR_PORT", "5672"),
        ("INVALIDATOR_SERVICE_HOST", "rabbitmq"),
        ("INVALIDATOR_BROKER_PORT", "5672"),
        ("INVALIDATOR_BROKER__SERVICE_HOST", "10.0.0.11"),
        ("INVALIDATOR_PORT_5672_TCP_ADR", "10.0.0.11"),
        ("INVALIDATOR_BROKER__PORT", "tcp://10.0.0.11:5672"),
    ],
)
def test_a_variable_that_only_resembles_a_service_link_is_refused(variable: str, value: str) -> None:
    assert "unknown setting" in refusal("", {variable: value})


def test_management_may_have_a_user_and_password_of_its_own(folder: Path) -> None:
    written(folder / "secret", "from the file\n")
    text = f'[management]\nurl = "http://[::1]:15672"\nuser = "check"\npassword_file = "{folder / "secret"}"'
    management = loaded(text).management
    assert management.password
    assert ("http://[::1]:15672", "check", "from the file") == (
        management.url,
        management.user,
        management.password.reveal(),
    )
    assert loaded("").management.password is None
