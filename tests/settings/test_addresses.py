"""Addresses of brokers and nodes, and the labels of nodes."""

import pytest

from invalidator.errors import ConfigurationError
from invalidator.settings import labelled, split_address
from invalidator.settings.schema import RELAY_PORT, WARMER_PORT, WORKER_PORT
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


@pytest.mark.parametrize("address", ["", ":1", "h:", "h:1:2", "[::1", "h:x", "h/x", "amqp://h:1", "h:123456", "h\n"])
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


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("::1:11211", "[::1]:11211"),
        ("2001:db8::7:11211", "[2001:db8::7]:11211"),
        ("::1", "[::1]:11211"),
        ("fe80::7:11", "[fe80::7:11]:11211"),
    ],
)
def test_ipv6_address_without_brackets_is_answered_with_brackets(text: str, fix: str) -> None:
    assert refusal(f"[ring]\nnodes = ['{text}']") == f'setting "ring.nodes": "{text}" is not an address: write {fix}'


@pytest.mark.parametrize("text", ["/run/memcached.sock", "unix:/run/memcached.sock"])
def test_a_path_is_a_node_on_a_unix_socket_labelled_as_hashclient_labels_it(text: str) -> None:
    node = loaded(f"[ring]\nnodes = ['{text}']").nodes()["/run/memcached.sock"]
    assert ("/run/memcached.sock", "/run/memcached.sock") == (node.path, str(node))


def test_only_a_path_is_a_unix_socket() -> None:
    assert [None, None] == [address.path for address in labelled(["h:1", "[::1]:1"]).values()]
    assert ["h:1", "[::1]:1"] == [str(address) for address in labelled(["h:1", "[::1]:1"]).values()]


@pytest.mark.parametrize("path", ["/" + "x" * 107, "unix:/a\\u0000b"])
def test_a_path_to_which_no_socket_can_be_bound_is_refused(path: str) -> None:
    assert "is not a path of a UNIX socket" in refusal(f'[ring.nodes]\na = "{path}"')


def test_a_node_on_a_unix_socket_is_listed_once() -> None:
    assert 'node "unix:/a" is listed twice' in refusal("[ring]\nnodes = ['/a', 'unix:/a']")


def test_unix_sockets_and_tls_are_refused_together() -> None:
    text = "[ring]\nnodes = ['/run/memcached.sock']\n[memcached]\ntls = true"
    assert 'setting "memcached.tls": memcached speaks no TLS on a UNIX socket, and /run/mem' in refusal(text)


@pytest.mark.parametrize("section", ["[broker]\nalternates = ['/a']", "[metrics]\nlisten = '/a'"])
def test_only_nodes_are_on_unix_sockets(section: str) -> None:
    assert '"/a" is not an address: write host:port' in refusal(section)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("'29872'", ("127.0.0.1", 29872)),
        ("29872", ("127.0.0.1", 29872)),
        ("'0.0.0.0'", ("0.0.0.0", 9871)),
        ("'[::]:29872'", ("::", 29872)),
        ("'off'", None),
    ],
)
def test_metrics_are_served_at_a_port_or_an_address(listen: str, expected: tuple[str, int] | None) -> None:
    assert expected == loaded(f"[metrics]\nlisten = {listen}").metrics.address()


def test_each_service_serves_its_metrics_at_a_port_of_its_own() -> None:
    metrics = loaded("").metrics
    ports = (WORKER_PORT, WARMER_PORT, RELAY_PORT)
    assert [("127.0.0.1", 9871), ("127.0.0.1", 9872), ("127.0.0.1", 9873)] == [metrics.address(port) for port in ports]
    assert ("127.0.0.1", 29872) == loaded("[metrics]\nlisten = 29872").metrics.address(RELAY_PORT)


def test_a_port_for_metrics_may_come_from_the_environment() -> None:
    assert ("127.0.0.1", 29872) == loaded("", {"INVALIDATOR_METRICS__LISTEN": "29872"}).metrics.address()


@pytest.mark.parametrize("listen", ["0", "-1", "'70000'", "70000", "''"])
def test_a_number_that_is_not_a_port_is_refused(listen: str) -> None:
    assert 'setting "metrics.listen": ' in refusal(f"[metrics]\nlisten = {listen}")
