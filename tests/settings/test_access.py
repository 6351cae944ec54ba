"""The nodes' login, and the files for TLS."""

from pathlib import Path

import pytest

from tests.settings.conftest import loaded, refusal, written


def test_nodes_may_require_user_and_password(folder: Path) -> None:
    written(folder / "memcached-password", "hush\n")
    text = '[memcached]\nuser = "shop"'
    by_file = loaded(f'{text}\npassword_file = "{folder / "memcached-password"}"').memcached.password
    by_systemd = loaded(text, {"CREDENTIALS_DIRECTORY": str(folder)}).memcached.password
    assert by_file and by_systemd
    assert "hush" == by_file.reveal() == by_systemd.reveal()
    assert loaded("", {"CREDENTIALS_DIRECTORY": str(folder)}).memcached.password is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('user = "shop"', 'setting "memcached.user" has no password: see memcached.password_file'),
        ('user = "a b"\npassword = "x"', 'setting "memcached.user": Expected `str` of printable ASCII without spaces'),
        ('password = "x"', 'setting "memcached.user" is missing'),
        ('tls_ca = "x"', 'setting "memcached.tls_ca" is for TLS, but memcached.tls is false'),
        ('tls = true\ntls_ca = "/nowhere"', 'setting "memcached.tls_ca": cannot read certificates in /nowhere'),
    ],
)
def test_access_to_nodes_that_cannot_work_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(f"[memcached]\n{text}")


def test_files_for_tls_are_for_amqps() -> None:
    assert 'setting "broker.tls_ca" is for TLS, but broker.url is amqp://: write amqps://' in refusal(
        '[broker]\nurl = "amqp://h"\ntls_ca = "/x"'
    )
    assert loaded('[broker]\nurl = "amqps://h"').broker.url == "amqps://guest@h:5671/"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tls_ca", None, "cannot read certificates in"),
        ("tls_ca", "no certificate", "cannot read certificates in"),
        ("tls_certificate", None, "with the key in the same file: No such file"),
        ("tls_certificate", "no certificate", "and a key without a passphrase"),
    ],
)
def test_unusable_files_for_tls_are_refused(folder: Path, name: str, content: str | None, expected: str) -> None:
    if content:
        written(folder / "file.pem", content)
    message = refusal(f'[broker]\nurl = "amqps://h"\n{name} = "{folder / "file.pem"}"')
    assert f'setting "broker.{name}": ' in message
    assert str(folder / "file.pem") in message
    assert expected in message
