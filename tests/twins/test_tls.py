"""Nodes with TLS, read by either cache."""

import ssl
from collections.abc import Iterator

import pytest
import trustme

from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached
from tests.twins.twin import K, Twins, never

AUTHORITY = trustme.CA()


@pytest.fixture
def secure() -> Iterator[LyingMemcached]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(server)
    with LyingMemcached(tls=server) as node:
        yield node


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_node_with_tls_is_read_and_one_that_says_nothing_costs_one_timeout(
    secure: LyingMemcached, twin: Twins
) -> None:
    secure.put(K, b"7")
    cache = twin(secure.address, tls=trusting(AUTHORITY))
    assert [7, 7] == [cache.get(never), cache.get(never)]
    secure.lies[b"get"] = b""
    assert 1 == twin(secure.address, tls=trusting(AUTHORITY), timeout=0.5).get(lambda: 1)


def test_a_certificate_of_another_authority_is_logged_and_costs_no_read(secure: LyingMemcached, twin: Twins) -> None:
    with capture_logs() as lines:
        assert 1 == twin(secure.address, tls=trusting(trustme.CA())).get(lambda: 1)
    assert ([], 1) == (secure.verbs, len(lines))
    assert "CERTIFICATE_VERIFY_FAILED" in lines[0]["error"]
