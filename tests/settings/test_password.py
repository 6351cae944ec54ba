"""A password is read from the first of its sources that has one, and is never printed."""

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import ConfigurationError
from invalidator.settings import BrokerSettings, Secret, Settings, load, masked
from tests.settings.conftest import loaded, password, refusal, written


@pytest.fixture
def everywhere(folder: Path) -> tuple[Path, dict[str, str]]:
    """Provide a configuration and an environment in which every source holds another password."""
    written(folder / "secret", "from password_file\n")
    written(folder / "credentials" / "broker-password", "from credentials\r\n")
    text = f"""
        [broker]
        url = "amqp://shop:from%20url@h/"
        password_file = "{folder / "secret"}"
        password = "from password"
    """
    return written(folder / "given.toml", text), {"CREDENTIALS_DIRECTORY": str(folder / "credentials")}


def test_password_sources_take_precedence_in_their_order(everywhere: tuple[Path, dict[str, str]]) -> None:
    file, environ = everywhere
    variable = {"INVALIDATOR_BROKER__PASSWORD": "from environment"}
    assert password(load(file, environ | variable)) == "from environment"
    for source, line in (("password", "password ="), ("password_file", "password_file"), ("credentials", "")):
        assert password(load(file, environ)) == f"from {source}"
        if line:
            file.write_text("\n".join(kept for kept in file.read_text().split("\n") if line not in kept))
    assert password(load(file, {})) == "from url"
    assert password(load(file, {"CREDENTIALS_DIRECTORY": ""})) == "from url"
    assert password(load(file, {"CREDENTIALS_DIRECTORY": "/nowhere"})) == "from url"
    assert password(loaded('[broker]\nurl = "amqp://shop@h/"')) is None


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"p\xffss", "not UTF-8")]
)
def test_unusable_password_file_is_refused(folder: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        folder.joinpath("secret").write_bytes(content)
    message = refusal(f'[broker]\npassword_file = "{folder / "secret"}"')
    assert 'setting "broker.password_file"' in message
    assert expected in message


def test_a_credential_that_is_empty_is_no_password_for_the_nodes(folder: Path) -> None:
    written(folder / "memcached-password", "\n")
    assert 'setting "memcached.user" has no password' in refusal(
        '[memcached]\nuser = "shop"', {"CREDENTIALS_DIRECTORY": str(folder)}
    )


@pytest.mark.parametrize(
    "line",
    [
        'url = "amqp://shop:hush@h/"',
        'url = "amqp://shop:h/ush@h/"',
        'password = "hush"',
        "password = 3",
        '[management]\npassword = "hush"',
        '[memcached]\npassword = "hush"',
    ],
)
def test_world_readable_file_with_a_password_is_refused(folder: Path, line: str) -> None:
    file = written(folder / "given.toml", f"[broker]\n{line}", mode=0o644)
    with pytest.raises(ConfigurationError, match=r"is readable by every user of this machine: chmod o-r .*given\.toml"):
        load(file, {})


@pytest.mark.parametrize("line", ['url = "amqp://guest:guest@h/"', 'url = "amqp://shop@h/"', "prefetch = 3"])
def test_file_without_a_password_may_be_world_readable(folder: Path, line: str) -> None:
    assert load(written(folder / "given.toml", f"[broker]\n{line}", mode=0o644), {})


def printed(action: Callable[[], Settings]) -> str:
    """Return everything that could reach a log: the settings as text, or the error with its causes."""
    try:
        settings = action()
    except ConfigurationError as error:
        return "".join(traceback.TracebackException.from_exception(error, limit=0).format())
    return f"{settings!r} {settings} {settings.broker.password!r} {settings.broker.password} {settings.broker.url}"


ODD = [
    "hush",
    "hush@",
    "/hush",
    "12/hush",
    "#hush",
    "12#hush",
    "?hush",
    "[hush",
    "]hush",
    "hush:hush",
    "%hush",
    "h hush",
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("scheme", ["amqp", "http"])
@pytest.mark.parametrize("prefetch", ["1", "0"])
def test_password_in_a_url_is_never_printed(odd: str, scheme: str, prefetch: str) -> None:
    url = f"{scheme}://shop:{odd}@h:5672/eu"
    text = f"[broker]\nurl = '{url}'\nprefetch = {prefetch}"
    assert "hush" not in printed(lambda: loaded(text))
    assert "hush" not in printed(lambda: load(None, {"INVALIDATOR_BROKER__URL": url}))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
def test_no_character_makes_a_url_reveal_its_password(odd: str) -> None:
    for secret in (f"12{odd}h#u?s/h", f"{odd}hushhush", f"hushhush{odd}"):
        text = printed(lambda: load(None, {"INVALIDATOR_BROKER__URL": f"amqp://shop:{secret}@h:5672/eu"}))  # noqa: B023
        assert "hush" not in text
        assert "u?s/h" not in text


@pytest.mark.parametrize(
    "environ",
    [
        {"INVALIDATOR_BROKER": '{"password": "hush"}'},
        {"INVALIDATOR_BROKER__PASWORD": "hush"},
        {"INVALIDATOR_BROKER__PASSWORD": "hush", "INVALIDATOR_BROKER__PREFETCH": "x"},
        {"INVALIDATOR_BROKER__ALTERNATES": '["shop:hush@h:5672", "amqp://shop:hush@h:5672"]'},
        {"INVALIDATOR_BROKER__ALTERNATES": '["amqp://shop:hush@h:5672"]'},
    ],
)
def test_password_in_the_wrong_place_is_not_printed_either(environ: dict[str, str]) -> None:
    text = printed(lambda: load(None, environ))
    assert "ConfigurationError" in text
    assert "hush" not in text


def test_secret_prints_as_asterisks() -> None:
    secret = Secret("hush")
    assert "******** ******** ********" == f"{secret} {secret!r} {secret!s}"
    assert "hush" not in repr(BrokerSettings(password=secret))
    assert secret.reveal() == "hush"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://shop:hush@h/", "amqp://shop:********@h/"),
        ("amqp://shop:hu@s/h@h/", "amqp://shop:********@h/"),
        ("cannot reach amqp://a:b@h/ or amqp://c:d@h/", "cannot reach amqp://a:********@h/ or amqp://c:********@h/"),
        ("amqp://shop@h:5672/", "amqp://shop@h:5672/"),
        ("amqp://h:5672/", "amqp://h:5672/"),
    ],
)
def test_masked_hides_passwords_and_nothing_else(text: str, expected: str) -> None:
    assert expected == masked(text)


@pytest.mark.parametrize("section", ["broker", "memcached"])
def test_a_credential_that_cannot_be_read_is_a_configuration_error(section: str, folder: Path) -> None:
    """A folder in its place stands for a file without the permission, which root has anyway."""
    (folder / f"{section}-password").mkdir()
    user = "memcached.user = 'shop'" if section == "memcached" else ""
    with pytest.raises(ConfigurationError, match=rf"\$CREDENTIALS_DIRECTORY: cannot read .*{section}-password: Is a"):
        loaded(user, {"CREDENTIALS_DIRECTORY": str(folder)})
