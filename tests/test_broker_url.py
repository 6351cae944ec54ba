"""One URL, one vhost: every library connects to the vhost that `BrokerUrl` reads, and two readings are refused."""

import asyncio

import aiormq
import pika
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from yarl import URL

from invalidator.app.publish.message import broker_settings
from invalidator.broker.address import urls
from invalidator.broker.connection import _as_aiormq_takes_it
from invalidator.broker.publish.opening import parameters
from invalidator.errors import ConfigurationError
from invalidator.operate.management import Management, vhost_of
from invalidator.settings import BrokerSettings, BrokerUrl, Secret, Settings


def test_its_parts_are_unescaped_and_its_text_is_escaped_and_without_the_password() -> None:
    url = BrokerUrl.parse("amqps://sh%40p:p%2Fw@[::1]/shop%2Feu?auth=plain")
    assert ("amqps", "sh@p", "::1", 5671, "shop/eu") == (url.scheme, url.user, url.host, url.port, url.vhost)
    assert url.password
    assert "p/w" == url.password.reveal()
    assert "amqps://sh%40p@[::1]:5671/shop%2Feu?auth=plain" == str(url)


@pytest.mark.parametrize(
    ("text", "vhost"),
    [
        ("amqp://mq", "/"),
        ("amqp://mq/", "/"),
        ("amqp://mq/%2F", "/"),
        ("amqp://mq/%2f", "/"),
        ("amqp://mq/shop", "shop"),
        ("amqp://mq/shop%2Feu", "shop/eu"),
        ("amqp://mq/%2Fdebug", "/debug"),
        ("amqp://mq/100%25", "100%"),
        ("amqp://mq/caf%C3%A9", "café"),
        ("amqp://mq/a%20b", "a b"),
        ("amqp://mq/a+b", "a+b"),
        ("amqp://mq/a%23b", "a#b"),
    ],
)
def test_every_library_gets_the_vhost_that_is_meant(text: str, vhost: str) -> None:
    assert [vhost] * 4 == vhosts(broker_settings(text))


@pytest.mark.parametrize("vhost", [".", ".."])
def test_a_vhost_that_a_library_takes_for_a_path_is_refused(vhost: str) -> None:
    for url, named in ((f"amqp://mq/{vhost}", None), ("amqp://mq/", vhost)):
        with pytest.raises(ConfigurationError, match="cannot be written in a URL"):
            BrokerUrl.parse(url, vhost=named)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd\0"), min_size=1, max_size=20))
def test_a_vhost_of_any_characters_is_the_same_for_every_library(vhost: str) -> None:
    settings = BrokerSettings(url="amqp://mq/", vhost=vhost)
    try:
        url = str(BrokerUrl.parse(settings.url, vhost=vhost))
    except ConfigurationError:
        assume(False)
    assert [vhost] * 4 == vhosts(replace(settings, url=url))


def vhosts(broker: BrokerSettings) -> list[str]:
    """Return the vhost as the settings, aiormq, pika and the management API's client take it."""
    (url,) = urls(broker)
    settings = Settings(cluster="eu", broker=broker)
    in_path = URL(f"http://api/{Management(settings)._vhost}", encoded=True).raw_path[1:]
    return [
        vhost_of(settings),
        aiormq_vhost(url),
        parameters(broker, url, "test", within=1.0).virtual_host,
        pika.connection.url_unquote(in_path),
    ]


def aiormq_vhost(url: BrokerUrl) -> str:
    with asyncio.Runner() as runner:
        return str(aiormq.Connection(_as_aiormq_takes_it(url, 10), loop=runner.get_loop()).vhost)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("amqp://mq/shop/eu", 'write "/shop%2Feu"'),
        ("amqp://mq//debug", 'write "/%2Fdebug"'),
        ("amqp://mq//", 'write "/%2F"'),
        ("amqp://mq/shop/", 'write "/shop%2F"'),
        ("amqp://mq/shop#eu", "write it as %23"),
        ("amqp://mq/a%252Fb", "write each character once, / as %2F and % as %25"),
        ("amqp://mq/a%252fb", "write each character once"),
        ("amqp://mq/%FF", "write each character once"),
    ],
)
def test_a_url_with_two_readings_is_refused_with_the_spelling_that_has_one(text: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        broker_settings(text)
    assert fix in str(caught.value)
    assert 78 == caught.value.exit_code


def test_the_setting_of_the_vhost_replaces_a_vhost_with_two_readings() -> None:
    assert "shop/eu" == BrokerUrl.parse("amqp://mq/a/b", vhost="shop/eu").vhost


def test_user_and_password_of_any_characters_are_the_same_for_both_libraries() -> None:
    password = "p:/?#[]@!$&'()*+,;=% é"
    broker = BrokerSettings(url=str(BrokerUrl.parse("amqp://s%20h%3A%40p@mq/")), password=Secret(password))
    (url,) = urls(broker)
    credentials = parameters(broker, url, "test", within=1.0).credentials
    assert ("s h:@p", password) == (credentials.username, credentials.password)
    quoted = _as_aiormq_takes_it(url, 10)
    assert ("s h:@p", password) == (quoted.user, quoted.password)


def test_alternates_share_user_password_and_vhost() -> None:
    broker = BrokerSettings(url="amqp://shop@mq-1/eu", alternates=["mq-2", "[::1]:5673"], password=Secret("it"))
    found = [(url.host, url.port, url.user, url.vhost) for url in urls(broker)]
    assert [("mq-1", 5672, "shop", "eu"), ("mq-2", 5672, "shop", "eu"), ("::1", 5673, "shop", "eu")] == found
