"""The commands without any server: their arguments, refusals before anything is sent, and output."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result
from invalidator_cli.main import COMMANDS, main

from invalidator.runtime import service

CONFIGURATION = """
cluster = "eu"
[broker]
url = "amqp://127.0.0.1:1/"
[ring]
nodes = {eu-1 = "127.0.0.1:1", eu-2 = "127.0.0.1:2"}
[memcached]
prefix = "shop:"
deadline = 0.5
[limits]
body_bytes = 1000
[[rule]]
on = "product_updated"
evict = ["product:{id}", "tag:{tags?}", "category:{before.category_id?}:listing"]
[[rule]]
on = "stock_counted"
evict = ["stock:{id}"]
again_after = 0.5
"""


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Result: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return `run("explain", "product_updated", "id=7")`, with a configuration whose servers do not run."""
    file = tmp_path / "invalidator.toml"
    file.write_text(CONFIGURATION)
    monkeypatch.setenv("INVALIDATOR_CONFIG", str(file))
    return lambda *arguments, stdin=None: CliRunner().invoke(main, arguments, input=stdin)


def refusal(result: Result) -> str:
    """Return the error of a command that exits with 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def modules_after(code: str) -> set[str]:
    """Return the modules that a process of its own has loaded once it has run this code."""
    ask = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_is_quick_because_it_loads_nothing_that_only_commands_need() -> None:
    loaded = modules_after("import invalidator_cli.main")
    assert not {"aio_pika", "aiormq", "asyncio", "msgspec", "prometheus_client", "rich"} & loaded


def test_evict_directly_is_quick_because_it_loads_no_event_loop_and_no_client_of_the_broker(run: Run) -> None:
    assert 75 == run("evict", "--direct", "a").exit_code
    loaded = modules_after("import invalidator_cli.evict, invalidator.operate.evict")
    assert {"msgspec", "socket", "invalidator.operate.evict"} <= loaded
    assert not {"aiormq", "asyncio", "pika", "prometheus_client", "pymemcache", "rich", "ssl"} & loaded


def test_publish_is_quick_because_it_loads_one_client_of_the_broker_and_none_of_memcached() -> None:
    loaded = modules_after("import invalidator_cli.publish, invalidator.operate.publish")
    assert {"pika", "asyncio"} <= loaded  # pika loads asyncio itself
    assert not {"aio_pika", "aiormq", "mmh3", "prometheus_client", "pymemcache", "rich"} & loaded


def test_a_worker_loads_nothing_that_only_tables_need() -> None:
    loaded = modules_after("import invalidator_cli.serving, invalidator.worker.worker")
    assert "asyncio" in loaded
    assert "rich" not in loaded


@pytest.mark.parametrize(
    "command",
    [[name] for name in COMMANDS] + [["topology", name] for name in ("declare", "verify", "export", "retire")],
    ids=" ".join,
)
def test_help_ends_in_worked_examples(command: list[str], run: Run) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0, result.output
    *_, examples = result.stdout.partition("\n  Examples:\n")
    lines = [line.strip() for line in examples.splitlines()]
    assert lines and all("invalidator" in line or "./dev" in line for line in lines), result.stdout
    assert any(line.startswith(" ".join(["invalidator", *command])) for line in lines)


@pytest.mark.parametrize("command", ["worker", "explain", "check", "publish", "evict"])
def test_bad_configuration_exits_78_and_names_the_key(command: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[broker]\nprefech = 3\n")
    arguments = {"explain": ["x"], "publish": ["x"], "evict": ["x"]}.get(command, [])
    result = run(command, "--config", str(file), *arguments)
    assert 78 == result.exit_code
    assert 'unknown setting "broker.prefech"' in result.stderr
    assert 'did you mean "broker.prefetch"?' in result.stderr


class TestExplain:
    def test_shows_template_keys_with_the_prefix_and_nodes(self, run: Run) -> None:
        result = run("explain", "product_updated", "id=007", 'tags:=["a", "b"]')
        assert result.exit_code == 0, result.output
        rows = [line.split() for line in result.stdout.splitlines()]
        assert ["product:{id}", "shop:product:007", "every", "node"] in rows
        assert ["shop:tag:b", "every", "node"] in rows
        assert ["category:{before.category_id?}:listing", "-"] in [row[:2] for row in rows]
        assert ["eu-2", "127.0.0.1:2"] in rows

    def test_prints_json(self, run: Run) -> None:
        shown = json.loads(run("explain", "product_updated", "id:=7", "before.category_id=3", "-o", "json").stdout)
        assert [["product:7"], [], ["category:3:listing"]] == [[k["key"] for k in t["keys"]] for t in shown["rule"]]
        assert {"key": "product:7", "stored_as": "shop:product:7", "nodes": ["eu-1", "eu-2"]} == shown["rule"][0][
            "keys"
        ][0]

    def test_shows_what_is_evicted_once_more(self, run: Run) -> None:
        rows = [line.split() for line in run("explain", "stock_counted", "id=7").stdout.splitlines()]
        assert ["0.5", "s", "shop:stock:7"] in rows
        shown = json.loads(run("explain", "stock_counted", "id=7", "-o", "json").stdout)
        (once_more,) = shown["again"]
        assert (0.5, "shop:stock:7") == (once_more["after_seconds"], once_more["keys"][0]["stored_as"])

    def test_poison_exits_2_with_its_reason_and_the_queue_it_would_go_to(self, run: Run) -> None:
        said = refusal(run("explain", "product_updated"))
        assert 'poison (missing-field): the field "id" is missing' in said
        assert '"invalidator.eu.dead"' in said

    def test_poison_as_json(self, run: Run) -> None:
        result = run("explain", "product_updated", "id=a b", "-o", "json")
        assert 2 == result.exit_code
        assert "bad-key" == json.loads(result.stdout)["poison"]["reason"]

    def test_event_that_no_rule_knows_evicts_nothing_and_the_nearest_type_is_named(self, run: Run) -> None:
        result = run("explain", "product_updatd", "id=7")
        assert 0 == result.exit_code
        assert "" == result.stdout
        assert 'did you mean "product_updated"' in result.stderr

    def test_a_type_without_a_near_one_is_one_whole_sentence(self, run: Run) -> None:
        said = run("explain", "zzz", "id=7").stderr
        expected = 'invalidator: no rule is on "zzz". A worker acknowledges such an event and evicts nothing.\n'
        assert expected == said

    def test_an_event_over_the_limit_is_poison(self, run: Run) -> None:
        assert "body-too-large" in refusal(run("explain", "product_updated", f"id={'7' * 1000}"))


class TestPublishRefuses:
    """Refusals before anything is sent. No server runs here, so sending would exit with 69."""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "give a TYPE"),
            (["product_updated", "--from-file", "-"], "give a TYPE"),
            (["--from-file", "-", "--count", "2"], "give a TYPE"),
            (["product_updated", "id"], "'id' is not a field: write NAME=TEXT or NAME:=JSON"),
            (["product_updated", "id:=abc"], "id:=abc is not JSON"),
            (["product_updated", "id=7", "type=other"], "publish one type"),
            (["product_updated", "--count", "0"], "--count"),
            (["product_updated", "--rate", "0"], "--rate"),
            (["product_updated", f"id={'7' * 1000}"], "limits.body_bytes"),
        ],
    )
    def test_bad_arguments(self, arguments: list[str], said: str, run: Run) -> None:
        assert said in refusal(run("publish", *arguments))

    def test_a_file_with_a_bad_line_naming_the_line(self, run: Run) -> None:
        good = '{"type": "product_updated", "id": 1}\n'
        assert "line 4: the body is not JSON" in refusal(
            run("publish", "--from-file", "-", stdin=good * 2 + "\n{bad\n" + good)
        )

    def test_a_line_without_a_type(self, run: Run) -> None:
        assert "line 1: the event has no type" in refusal(run("publish", "--from-file", "-", stdin='{"id": 1}\n'))


class TestPublishReportsTypesWithoutRule:
    """Before anything is sent: no server runs here, so that sending exits with 69."""

    def test_a_misspelt_type_with_the_one_that_was_meant(self, run: Run) -> None:
        done = run("publish", "product_updatd", "id=7")
        assert 69 == done.exit_code
        assert 'no rule is on "product_updatd", did you mean "product_updated"?' in done.stderr

    def test_each_type_once(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "events.jsonl"
        file.write_text('{"type": "cart", "id": 1}\n{"type": "product_updated", "id": 1}\n' * 2)
        done = run("publish", "--from-file", str(file))
        assert 1 == done.stderr.count("no rule is on"), done.stderr
        assert 'no rule is on "cart". Workers with these rules evict nothing for it.' in done.stderr

    def test_no_type_that_a_rule_is_on_and_no_eviction_by_hand(self, run: Run) -> None:
        for arguments in (["product_updated", "id=7"], ["cache_evict", 'keys:=["product:7"]']):
            assert "no rule" not in run("publish", *arguments).stderr


class TestEvictRefuses:
    @pytest.mark.parametrize("how", [[], ["--direct"], ["--dry-run"]], ids=str)
    @pytest.mark.parametrize("key", ["a b", "", "a\r\nflush_all", "ü" * 123, "k" * 246, "\x1b[2J"])
    def test_what_cannot_be_a_key(self, key: str, how: list[str], run: Run) -> None:
        said = refusal(run("evict", "good", *how, "--", key))
        assert "KEY 2: the key " in said
        assert said[:-1].isprintable()

    def test_a_bad_line_of_a_file_naming_the_line(self, run: Run) -> None:
        assert "line 3: the key 'b c'" in refusal(run("evict", "--from-file", "-", stdin="a\n\nb c\nd\n"))
        assert r"line 1: the key '\udcff'" in refusal(run("evict", "--from-file", "-", stdin=b"\xff\n"))

    def test_no_key_at_all(self, run: Run) -> None:
        assert "give a KEY, or --from-file" in refusal(run("evict"))


def test_evict_dry_run_shows_each_key_once_with_its_nodes(run: Run) -> None:
    result = run("evict", "a", "b", "a", "--dry-run", "-o", "json")
    assert ["a", "b"] == [key["key"] for key in json.loads(result.stdout)["keys"]]
    assert "shop:a" in run("evict", "a", "--dry-run").stdout


def test_evict_of_an_empty_file_does_nothing_and_says_so(run: Run) -> None:
    result = run("evict", "--from-file", "-", stdin="")
    assert (0, "") == (result.exit_code, result.stdout)
    assert "nothing to evict" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["evict", "--wait", "5", "product:1"], ["publish", "--wait", "2.5", "x"]], ids=str
)
def test_a_number_behind_wait_is_refused_because_it_could_be_seconds_or_a_key(arguments: list[str], run: Run) -> None:
    said = refusal(run(*arguments))
    assert f"write --wait={arguments[2]} for seconds, or put --wait at the end" in said


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [(["evct"], "evict"), (["dead", "lst"], "list"), (["topology", "verfy"], "verify")],
    ids=str,
)
def test_an_unknown_command_gets_the_nearest_one(arguments: list[str], nearest: str, run: Run) -> None:
    assert f'no such command "{arguments[-1]}", did you mean "{nearest}"?' in refusal(run(*arguments))


def test_an_unknown_command_without_a_near_one_is_refused(run: Run) -> None:
    assert 'no such command "zzz"\n' in refusal(run("zzz"))


@pytest.mark.parametrize("command", [["topology", "export"], ["worker"], ["relay"], ["warm"], ["follow"]], ids=str)
def test_without_a_configuration_file_each_command_says_where_it_looked(
    command: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVALIDATOR_CONFIG")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(service, "run", lambda *_, **__: None)  # a worker would start
    said = run(*command).stderr
    assert "no configuration file" in said
    assert "--config, $INVALIDATOR_CONFIG, ./invalidator.toml, /etc/invalidator/" in said


class TestCheckOffline:
    @pytest.fixture(autouse=True)
    def _without_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise AssertionError("the network is used")

        monkeypatch.setattr("socket.socket.connect", refuse)
        monkeypatch.setattr("socket.getaddrinfo", refuse)

    def test_a_good_file_exits_0(self, run: Run) -> None:
        result = run("check", "--offline", "-o", "json")
        (finding,) = json.loads(result.stdout)
        assert (0, "ok", "configuration") == (result.exit_code, finding["level"], finding["what"])

    def test_a_rule_that_cannot_work_exits_78(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("INVALIDATOR_RULE", '[{"on": "x", "evict": ["{"]}]')
        result = run("check", "--offline")
        assert (78, True) == (result.exit_code, 'WRONG  configuration  rule 1 (on "x")' in result.stdout)

    def test_live_events_cannot_be_sampled(self, run: Run) -> None:
        assert "leave out --offline" in refusal(run("check", "--offline", "--sample", "3"))


def test_unreachable_broker_exits_69(run: Run) -> None:
    for arguments in (["publish", "product_updated"], ["evict", "a"], ["topology", "declare"], ["topology", "verify"]):
        result = run(*arguments)
        assert 69 == result.exit_code, arguments
        assert "no broker answers: 127.0.0.1:1" in result.stderr


def test_evict_directly_names_the_nodes_that_did_not_confirm_and_exits_75(run: Run) -> None:
    result = run("evict", "a", "--direct", "-o", "json")
    assert 75 == result.exit_code
    assert [("eu-1", 0, 1), ("eu-2", 0, 1)] == [
        (node["node"], node["evicted"], node["unconfirmed"]) for node in json.loads(result.stdout)
    ]
    assert "not confirmed by eu-1, eu-2" in result.stderr


def test_check_reports_every_fault_at_once(run: Run) -> None:
    result = run("check", "-o", "json")
    found = json.loads(result.stdout)
    assert ["ok", "wrong", "wrong", "wrong"] == [finding["level"] for finding in found]
    assert ["configuration", "broker", "node", "node"] == [finding["what"] for finding in found]
    assert 69 == result.exit_code


def test_check_of_rules_that_cannot_work_exits_78_and_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVALIDATOR_RULE", '[{"on": "x", "evict": ["{"]}]')
    result = run("check")
    assert 78 == result.exit_code
    assert 'WRONG  configuration  rule 1 (on "x")' in result.stdout
    assert "eu-2 (127.0.0.1:2): cannot connect" in result.stdout


def exported(run: Run, *arguments: str) -> Any:
    return json.loads(run("topology", "export", *arguments).stdout)


def test_topology_export_keeps_dead_letters_and_debts_on_rabbitmq_4(run: Run) -> None:
    definitions = exported(run)
    limits = {queue["name"]: queue["arguments"].get("x-delivery-limit") for queue in definitions["queues"]}
    assert limits == {
        "invalidator.eu": None,
        "invalidator.eu.again.500ms": -1,
        "invalidator.eu.dead": -1,
        "invalidator.eu.gaps": -1,
        "invalidator.eu.parked.eu-1": -1,
        "invalidator.eu.parked.eu-2": -1,
    }
    assert [r"^invalidator\.eu\.(dead|gaps|again\..+|parked\..+)$"] == [
        policy["pattern"] for policy in definitions["policies"]
    ]
    assert "users" not in definitions


def test_topology_export_for_rabbitmq_3_holds_nothing_that_it_refuses(run: Run) -> None:
    assert "delivery-limit" not in json.dumps(exported(run, "--rabbitmq", "3"))


@pytest.mark.parametrize(("file", "version"), [("definitions.json", "4"), ("definitions-rabbitmq-3.json", "3")])
def test_definitions_in_conf_are_the_export_of_the_defaults(
    file: str, version: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVALIDATOR_CONFIG")
    shipped = Path(__file__).parent.parent / "conf" / "rabbitmq" / file
    monkeypatch.chdir(tmp_path)  # where no invalidator.toml is
    (tmp_path / "invalidator.toml").unlink()
    assert shipped.read_text() == run("topology", "export", "--rabbitmq", version).stdout


def test_flush_does_nothing_without_yes_but_show_what_it_would_do(run: Run) -> None:
    result = run("flush", "--node", "eu-2")
    assert result.exit_code == 2
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["WOULD", "FLUSH", "ADDRESS"],
        ["eu-2", "127.0.0.1:2"],
    ]
    assert "give --yes" in result.stderr


def test_flush_names_a_node_that_is_not_there(run: Run) -> None:
    result = run("flush", "--node", "eu-3", "--yes")
    assert (result.exit_code, 'no node "eu-3"' in result.stderr) == (78, True)


def test_flush_says_which_nodes_did_not_confirm(run: Run) -> None:
    result = run("flush", "--pause", "0", "--yes")
    assert (result.exit_code, "not confirmed by eu-1, eu-2" in result.stderr) == (75, True)


def test_a_node_that_is_still_configured_is_not_retired(run: Run) -> None:
    result = run("topology", "retire", "eu-1")
    assert (result.exit_code, "remove it from ring.nodes first" in result.stderr) == (78, True)
