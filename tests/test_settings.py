"""Settings say what they mean, refuse by full name what they do not know, and never print a password."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.errors import ConfigurationError
from invalidator.settings import BrokerSettings, Secret, Settings, find, labelled, load, masked, split_address
from invalidator.settings import loading as loading_module

Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no file of the machine's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading_module, "SYSTEM_FILE", tmp_path / "etc" / "invalidator.toml")
    return tmp_path


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def loaded(text: str, environ: dict[str, str] | None = None) -> Settings:
    return load(written(Path("given.toml"), text), environ or {})


def refusal(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(text, environ)
    return str(caught.value)


def password(settings: Settings) -> str | None:
    return settings.broker.password.reveal() if settings.broker.password else None


# --- where settings come from


def test_without_any_file_the_defaults_serve() -> None:
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


def test_variables_that_are_no_settings_are_left_alone() -> None:
    environ = {"INVALIDATOR_REQUIRE": "broker", "PATH": "/bin", "INVALID": "x"}
    assert load(None, environ).cluster == "main"


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


# --- what is refused, and how


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clutser = 'a'", 'unknown setting "clutser" in given.toml: did you mean "cluster"?'),
        ("[brokr]", 'unknown setting "brokr" in given.toml: did you mean "broker"?'),
        ("[memcached]\nevict-on = 'owner'", '"memcached.evict-on" in given.toml: did you mean "memcached.evict_on"?'),
        ("[ring.previous]\nnode = []", '"ring.previous.node" in given.toml: did you mean "ring.previous.nodes"?'),
        ("url = 'amqp://h'", 'unknown setting "url" in given.toml: did you mean "broker.url"?'),
        ("[memcached]\nprefetch = 3", '"memcached.prefetch" in given.toml: did you mean "broker.prefetch"?'),
        ("[log]\nheart_beat = 3", 'setting "log.heart_beat" in given.toml: did you mean "broker.heartbeat"?'),
        ("[[rule]]\non = 'a'\nevcit = []", 'unknown setting "rule.evcit" in given.toml: did you mean "rule.evict"?'),
        ("[log]\nzzz = 1", 'unknown setting "log.zzz" in given.toml: known are log.level, log.format'),
    ],
)
def test_unknown_setting_is_refused_by_full_name_with_the_nearest(text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BROKER__PREFETC", "1", 'unknown setting "broker.prefetc" in the environment variable INVALIDATOR_BROKER'),
        ("BROKER__PREFETC", "1", "did you mean INVALIDATOR_BROKER__PREFETCH?"),
        ("BROKER", "{}", "did you mean INVALIDATOR_BROKER__URL?"),
        ("RULE__ON", "a", "did you mean INVALIDATOR_RULE?"),
        ("RING__NODES__A", "h:1", "did you mean INVALIDATOR_RING__NODES?"),
        ("ZZZ", "1", "write INVALIDATOR_SECTION__KEY"),
        ("RULE", '[{"on": "a", "evic": []}]', 'variable INVALIDATOR_RULE: did you mean "rule.evict"?'),
        ("RING__NODES", "h:1", 'INVALIDATOR_RING__NODES must be JSON, as in ["127.0.0.1:11211"]'),
        ("RING__NODES", "[" * 100_000, "must be JSON"),
        ("BROKER__PREFETCH", "many", 'INVALIDATOR_BROKER__PREFETCH="many": setting "broker.prefetch": Expected `int`'),
        ("BROKER__PREFETCH", "70000", 'setting "broker.prefetch": Expected `int` <= 65535'),
        (
            "LOG__LEVEL",
            "loud",
            "setting \"log.level\": Invalid enum value 'loud': there are debug, info, warning, error",
        ),
    ],
)
def test_variable_that_sets_nothing_is_refused(variable: str, value: str, expected: str) -> None:
    assert expected in refusal("", {f"INVALIDATOR_{variable}": value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cluster = 17", 'setting "cluster": Expected `str`, got `int`'),
        ("cluster = ''", 'setting "cluster": Expected `str` of 1 to 80 of letters, digits'),
        ("cluster = 'a b'", 'setting "cluster"'),
        ('cluster = "a\\n"', 'setting "cluster"'),
        ("broker = 3", 'setting "broker": Expected `object`, got `int`'),
        ("[broker]\nurl = 3", 'setting "broker.url": Expected `str`, got `int`'),
        ("[broker]\npassword = 3", 'setting "broker.password": Expected `str`'),
        ("[broker]\nprefetch = 0", 'setting "broker.prefetch": Expected `int` >= 1'),
        ("[broker]\nheartbeat = 1.5", 'setting "broker.heartbeat": Expected `int`, got `float`'),
        ("[broker]\nalternates = ['a b']", 'setting "broker.alternates": "a b" is no address: write host:port'),
        ("[memcached]\ndeadline = 0", 'setting "memcached.deadline": Expected `float` > 0.0'),
        ("[memcached]\ndeadline = inf", 'setting "memcached.deadline": Expected `float` <= 3600.0'),
        (
            "[memcached]\nevict_on = 'all'",
            "\"memcached.evict_on\": Invalid enum value 'all': there are every-node, owner",
        ),
        ('[memcached]\nprefix = "shop:\\n"', 'setting "memcached.prefix": Expected `str` of printable ASCII'),
        ("rule = 3", 'setting "rule": Expected `array`, got `int`'),
        ("rule = [3]", 'setting "rule[0]": Expected `object`, got `int`'),
        ("[[rule]]\non = 'a'", 'setting "rule[0]": Object missing required field `evict`'),
        ("[[rule]]\non = 'a'\nevict = 'b'", 'setting "rule[0].evict": Expected `array`, got `str`'),
        ("[[rule]]\non = 'a'\nevict = []", 'setting "rule[0].evict": Expected `array` of length >= 1'),
        ("[management]\nurl = 'h:15672'", 'setting "management.url": Expected `str`'),
        ("[management]\nurl = 'http://shop:hush@h'", 'setting "management.url": Expected `str`'),
        ("[management]\npassword_file = '/nowhere'", 'setting "management.password_file": cannot read /nowhere'),
        ("[ring]\nnodes = []", 'setting "ring.nodes": a ring has at least one node'),
        ("[ring]\nnodes = ['a b']", 'setting "ring.nodes": "a b" is no address'),
        ("[ring]\nnodes = ['h:0']", 'setting "ring.nodes": "h:0" is no address'),
        ("[ring]\nnodes = ['h:65536']", 'setting "ring.nodes": "h:65536" is no address'),
        ("[ring]\nnodes = ['h', 'h:11211']", 'setting "ring.nodes": "h:11211" stands there twice'),
        ("[ring]\nnodes = {a = 'h:1', b = 'h:1'}", 'setting "ring.nodes": "h:1" stands there twice'),
        ("[ring]\nnodes = {'a b' = 'h:1'}", 'setting "ring.nodes": Expected `str` of 1 to 80'),
        ("[ring]\nnodes = ['käse:1']", 'setting "ring.nodes": the label "käse:1" should be 1 to 80'),
        ("[ring.previous]\nkind = 'ketama'", 'setting "ring.previous.nodes": a ring has at least one node'),
    ],
)
def test_value_that_cannot_work_is_refused_by_full_name(text: str, expected: str) -> None:
    message = refusal(text)
    assert expected in message
    assert "regex" not in message


def test_wrong_table_in_the_file_is_named_even_under_an_override() -> None:
    assert 'setting "broker": Expected `object`, got `int`' == refusal("broker = 3", {"INVALIDATOR_BROKER__URL": "x"})


# --- nodes


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
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write host:port, as in"):
        split_address(address, default_port=11211)


# --- the password


@pytest.fixture
def everywhere(folder: Path) -> tuple[Path, dict[str, str]]:
    """A configuration and an environment in which every source holds another password."""
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
def test_password_file_that_cannot_serve_is_refused(folder: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        folder.joinpath("secret").write_bytes(content)
    message = refusal(f'[broker]\npassword_file = "{folder / "secret"}"')
    assert 'setting "broker.password_file"' in message
    assert expected in message


def test_nodes_may_ask_for_user_and_password(folder: Path) -> None:
    written(folder / "memcached-password", "hush\n")
    text = '[memcached]\nuser = "shop"'
    by_file = loaded(f'{text}\npassword_file = "{folder / "memcached-password"}"').memcached.password
    by_systemd = loaded(text, {"CREDENTIALS_DIRECTORY": str(folder)}).memcached.password
    assert by_file and by_systemd
    assert "hush" == by_file.reveal() == by_systemd.reveal()
    assert loaded("", {"CREDENTIALS_DIRECTORY": str(folder)}).memcached.password is None


def test_a_credential_that_is_empty_is_no_password_for_the_nodes(folder: Path) -> None:
    written(folder / "memcached-password", "\n")
    assert 'setting "memcached.user" has no password' in refusal(
        '[memcached]\nuser = "shop"', {"CREDENTIALS_DIRECTORY": str(folder)}
    )


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
    assert loaded('[broker]\nurl = "amqps://h"').broker.url == "amqps://guest@h:5671"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tls_ca", None, "cannot read certificates in"),
        ("tls_ca", "no certificate", "cannot read certificates in"),
        ("tls_certificate", None, "with the key in the same file: No such file"),
        ("tls_certificate", "no certificate", "and keys without a passphrase"),
    ],
)
def test_files_for_tls_that_cannot_serve_are_refused(
    folder: Path, name: str, content: str | None, expected: str
) -> None:
    if content:
        written(folder / "file.pem", content)
    message = refusal(f'[broker]\nurl = "amqps://h"\n{name} = "{folder / "file.pem"}"')
    assert f'setting "broker.{name}": ' in message
    assert str(folder / "file.pem") in message
    assert expected in message


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
def test_file_with_a_password_that_everybody_can_read_is_refused(folder: Path, line: str) -> None:
    file = written(folder / "given.toml", f"[broker]\n{line}", mode=0o644)
    with pytest.raises(ConfigurationError, match=r"everybody on this machine can read it: chmod o-r .*given\.toml"):
        load(file, {})


@pytest.mark.parametrize("line", ['url = "amqp://guest:guest@h/"', 'url = "amqp://shop@h/"', "prefetch = 3"])
def test_file_without_a_password_may_be_read_by_everybody(folder: Path, line: str) -> None:
    assert load(written(folder / "given.toml", f"[broker]\n{line}", mode=0o644), {})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://shop:hush@h", "amqp://shop@h:5672"),
        ("amqps://shop:hush@h/eu", "amqps://shop@h:5671/eu"),
        ("amqp://shop:hush@[::1]:99/%2f?heartbeat=3", "amqp://shop@[::1]:99/%2f?heartbeat=3"),
        ("amqp://sh%40op:hush@h/", "amqp://sh%40op@h:5672/"),
        ("amqp://shop:hu@sh@h/", "amqp://shop@h:5672/"),
        ("amqp://h/", "amqp://guest@h:5672/"),
    ],
)
def test_url_is_kept_whole_but_for_the_password(url: str, expected: str) -> None:
    assert expected == loaded(f'[broker]\nurl = "{url}"').broker.url


def test_vhost_stands_in_for_the_one_in_the_url() -> None:
    assert "amqp://guest@h:5672/a%2Fb" == loaded('[broker]\nurl = "amqp://h/x"\nvhost = "a/b"').broker.url


@pytest.mark.parametrize("url", ["http://h/", "amqp://", "h:5672", "amqp://h:x/", "amqp://[::1/", "amqp:h", ""])
def test_url_that_is_none_is_refused(url: str) -> None:
    assert 'setting "broker.url" should read amqp://user@host:port/vhost' in refusal(f'[broker]\nurl = "{url}"')


def told(action: Callable[[], Settings]) -> str:
    """Everything that could reach a log: the settings as text, or the error with all that caused it."""
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
def test_password_in_a_url_is_never_told(odd: str, scheme: str, prefetch: str) -> None:
    url = f"{scheme}://shop:{odd}@h:5672/eu"
    text = f"[broker]\nurl = '{url}'\nprefetch = {prefetch}"
    assert "hush" not in told(lambda: loaded(text))
    assert "hush" not in told(lambda: load(None, {"INVALIDATOR_BROKER__URL": url}))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
def test_no_character_makes_a_url_tell_its_password(odd: str) -> None:
    for secret in (f"12{odd}h#u?s/h", f"{odd}hushhush", f"hushhush{odd}"):
        text = told(lambda: load(None, {"INVALIDATOR_BROKER__URL": f"amqp://shop:{secret}@h:5672/eu"}))  # noqa: B023
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
def test_password_in_the_wrong_place_is_not_told_either(environ: dict[str, str]) -> None:
    text = told(lambda: load(None, environ))
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
