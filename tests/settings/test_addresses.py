"""Addresses of brokers and nodes, and the labels of nodes."""

import pytest

from invalidator.errors import ConfigurationError
from invalidator.settings import labelled, split_address
from tests.settings.conftest import loaded, refusal


def test_nodes_of_a_list_are_labelled_as_hashclient_labels_them() -> None:
    expected = {"h:11211": ("h", 11211), "10.0.0.1:5": ("10.0.0.1", 5), "::1:11211": ("::1", 11211)}
    assert expected == labelled(["h", "10.0.0.1:5", "[::1]:11211"])
    assert expected == loaded("[ring]\nnodes = ['h', '10.0.0.1:5', '[::1]']").nodes()


def test_nodes_of_the_previous_ring_are_nodes_too() -> None:
    settings = loaded("[ring]\nnodes = {a = 'h:1', b = 'h:2'}\n[ring.previous]\nnodes = {b = 'h:2', c = 'h:3'}")
    assert {"a": ("h", 1), "b": ("h", 2), "c": ("h", 3)} == settings.nodes()


def test_label_with_two_addresses_is_refused() -> None:
    text = "[ring]\nnodes = {a = 'h:1'}\n[ring.previous]\nnodes = {a = 'h:2'}"
    assert 'setting "ring.previous.nodes": "a" has another address in ring.nodes' == refusal(text)


@pytest.mark.parametrize(
    "address", ["", ":1", "h:", "h:1:2", "::1", "[::1", "h:x", "h/x", "amqp://h:1", "h:123456", "h\n"]
)
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write host:port, as in"):
        split_address(address, default_port=11211)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://shop:hush@h", "amqp://shop@h:5672/"),
        ("amqps://shop:hush@h/eu", "amqps://shop@h:5671/eu"),
        ("amqp://shop:hush@[::1]:99/%2f?heartbeat=3", "amqp://shop@[::1]:99/?heartbeat=3"),
        ("amqp://sh%40op:hush@h/", "amqp://sh%40op@h:5672/"),
        ("amqp://shop:hu@sh@h/", "amqp://shop@h:5672/"),
        ("amqp://h/", "amqp://guest@h:5672/"),
    ],
)
def test_url_is_kept_whole_but_for_the_password(url: str, expected: str) -> None:
    assert expected == loaded(f'[broker]\nurl = "{url}"').broker.url


def test_vhost_replaces_the_one_in_the_url() -> None:
    assert "amqp://guest@h:5672/a%2Fb" == loaded('[broker]\nurl = "amqp://h/x"\nvhost = "a/b"').broker.url


@pytest.mark.parametrize("url", ["http://h/", "amqp://", "h:5672", "amqp://h:x/", "amqp://[::1/", "amqp:h", ""])
def test_a_wrong_url_is_refused(url: str) -> None:
    assert 'setting "broker.url" should read amqp://user@host:port/vhost' in refusal(f'[broker]\nurl = "{url}"')
