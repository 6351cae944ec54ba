"""The parts of the commands that need no server: chunks of keys, findings, losses, permissions."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invalidator.broker.topology import Topology
from invalidator.errors import (
    ConfigurationError,
    PoisonError,
    RefusedError,
    UnconfirmedError,
    UnreachableError,
)
from invalidator.events.event import decode
from invalidator.operate.diagnosis.permissions import needed
from invalidator.operate.diagnosis.status import ClusterStatus, Status, as_fields
from invalidator.operate.durability import Losses
from invalidator.operate.evict import checked_keys
from invalidator.operate.eviction_events import eviction_events
from invalidator.operate.findings import Finding, findings_as_fields, ok, worst, wrong
from invalidator.operate.management import Management, vhost_of
from invalidator.settings import BrokerSettings, LimitSettings, ManagementSettings, Settings


class TestEvictionEvents:
    @given(
        st.lists(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40), unique=True),
        st.integers(1, 7),
        st.integers(120, 400),
    )
    def test_every_key_is_in_one_event_within_both_limits(self, names: list[str], most: int, size: int) -> None:
        limits = LimitSettings(event_keys=most, body_bytes=size)
        events = list(eviction_events([name.encode() for name in names], limits))
        inside = [decode(event.body, limit=size).fields["keys"] for event in events]
        assert names == [name for keys in inside for name in keys]
        assert all(1 <= len(keys) <= most for keys in inside)

    def test_as_few_events_as_the_limits_allow(self) -> None:
        keys = [b"k%04d" % number for number in range(1000)]
        by_number = list(eviction_events(keys, LimitSettings(event_keys=300)))
        assert 4 == len(by_number)
        size = 1000
        assert math.ceil(1000 * 8 / (size - 40)) == len(list(eviction_events(keys, LimitSettings(body_bytes=size))))

    def test_a_body_that_cannot_hold_one_key_is_refused(self) -> None:
        with pytest.raises(PoisonError, match=r"limits\.body_bytes"):
            list(eviction_events([b"k" * 100], LimitSettings(body_bytes=100)))

    def test_keys_are_distinct_and_in_order(self) -> None:
        assert [b"b", b"a"] == checked_keys(Settings(), [("1", "b"), ("2", "a"), ("3", "b")])


class TestFindings:
    def test_the_exit_code_is_that_of_the_gravest(self) -> None:
        codes = [UnconfirmedError, UnreachableError, RefusedError, ConfigurationError]
        findings = [ok("node", "fine")]
        assert 0 == worst(findings)
        for meaning in codes:
            findings.append(wrong("queue", "x", "y", meaning=meaning))
            assert meaning.exit_code == worst(findings)

    def test_a_note_does_not_fail(self) -> None:
        assert 0 == worst([Finding("note", "configuration", "no rule")])


TOPOLOGY = Topology.of(Settings())


def described(number: int, *, major: int, **policy: Any) -> dict[str, Any]:
    """Return the n-th queue as the management API describes it after a worker declared it."""
    queue = TOPOLOGY.definitions("/", major_version=major)["queues"][number]
    names = {"policy": "ops"} if policy else {}
    return {**queue, "exclusive": False, "effective_policy_definition": policy or [], **names}


def losses(number: int, seen: dict[str, Any], *, major: int = 3) -> list[str]:
    queue = list(TOPOLOGY.queues())[number]
    return [f"{loss.text} -> {loss.fix}" for loss in Losses(TOPOLOGY, "shop", major).of_queue(queue, seen)]


class TestLosses:
    @pytest.mark.parametrize("major", [3, 4])
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_queue_as_declared_loses_nothing(self, number: int, major: int) -> None:
        assert [] == losses(number, described(number, major=major), major=major)

    def test_every_argument_that_differs_is_named(self) -> None:
        queue = described(0, major=3)
        queue["arguments"] = {"x-queue-type": "classic", "x-max-length": 5} | {
            name: value for name, value in queue["arguments"].items() if "dead" in name
        }
        (loss,) = losses(0, queue)
        assert "x-queue-type 'classic' instead of 'quorum'" in loss
        assert "x-overflow none instead of 'reject-publish'" in loss
        assert "x-max-length 5 instead of none" in loss
        assert "x-dead" not in loss

    @pytest.mark.parametrize("change", [{"durable": False}, {"auto_delete": True}, {"exclusive": True}])
    def test_a_queue_that_does_not_last_is_named(self, change: dict[str, bool]) -> None:
        (loss,) = losses(1, described(1, major=3) | change)
        assert f"{next(iter(change))} {next(iter(change.values()))!r} instead of" in loss

    def test_a_queue_of_rabbitmq_3_needs_a_policy_on_rabbitmq_4(self) -> None:
        old = described(1, major=3)
        (loss,) = losses(1, old, major=4)
        assert "delivery limit of 20" in loss
        assert r"rabbitmqctl set_policy -p shop 'invalidator.main: keep dead letters and debts'" in loss
        policy = TOPOLOGY.keeping_policy("shop")["definition"]
        assert [] == losses(1, old | {"effective_policy_definition": policy, "policy": "ours"}, major=4)

    @pytest.mark.parametrize("major", [3, 4])
    def test_a_policys_delivery_limit_is_a_loss_for_all_that_the_queues_argument_says(self, major: int) -> None:
        (loss,) = losses(2, described(2, major=major, **{"delivery-limit": 5}), major=major)
        assert "delivery limit of 5" in loss

    def test_the_cluster_queue_may_have_a_delivery_limit_and_a_length(self) -> None:
        assert [] == losses(0, described(0, major=4, **{"delivery-limit": 50, "max-length": 10**6}), major=4)

    @pytest.mark.parametrize("policy", ["expires", "message-ttl"])
    def test_nothing_may_go_by_the_clock(self, policy: str) -> None:
        for number in range(3):
            (loss,) = losses(number, described(number, major=3, **{policy: 60_000}))
            assert f"{policy} 60000 by policy" in loss
            assert 'the policy "ops"' in loss

    def test_the_oldest_debt_may_not_go_for_a_new_one(self) -> None:
        queue = described(2, major=3, **{"max-length": 10})
        queue["arguments"].pop("x-overflow")
        loss = losses(2, queue)[-1]
        assert "max-length 10 by policy: a new message deletes the oldest" in loss

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_policy_that_drops_the_oldest_comes_before_the_queues_own_argument(self, number: int) -> None:
        (loss,) = losses(number, described(number, major=3, **{"max-length": 10, "overflow": "drop-head"}))
        assert "max-length 10 by policy: a new message deletes the oldest" in loss

    @pytest.mark.parametrize(
        "policy", [{"max-length": 10}, {"max-length-bytes": 10, "overflow": "reject-publish"}], ids=str
    )
    def test_a_length_of_a_parking_queue_makes_parking_impossible_by_the_queues_own_argument(
        self, policy: dict[str, Any]
    ) -> None:
        queue = described(2, major=3, **policy)
        for count, text, is_note in ((9, "when the queue is full", True), (10, ": the queue is full:", False)):
            counts = {"messages": count, "message_bytes": count}
            (loss,) = Losses(TOPOLOGY, "shop", 3).of_queue(list(TOPOLOGY.queues())[2], queue | counts)
            assert (is_note, True) == (loss.is_note, text in loss.text)
            assert "parking is impossible, and nothing is acknowledged" in loss.text

    def test_an_exchange_of_another_type_is_named(self) -> None:
        seen = {"type": "topic", "durable": True, "auto_delete": False, "internal": False}
        (loss,) = Losses(TOPOLOGY, "/", 3).of_exchange("fanout", seen)
        assert "has type 'topic' instead of 'fanout'" == loss.text


class TestPermissions:
    def test_passive_ones_are_those_of_the_design(self) -> None:
        permissions = needed(Topology.of(Settings(cluster="eu")), declares=False)
        assert ("^$", r"^(amq\.default|cache\.purged)$", r"^invalidator\.eu(\.parked\..+)?$") == (
            permissions.configure,
            permissions.write,
            permissions.read,
        )

    def test_the_command_is_quoted_for_a_shell(self) -> None:
        command = needed(TOPOLOGY, declares=False).command("a b", "/")
        assert command.startswith("rabbitmqctl set_permissions -p / 'a b' '^$' '^(amq")


class TestManagement:
    @pytest.mark.parametrize(
        ("broker", "url", "expected"),
        [
            ("amqp://u@rabbit.example:5673/eu", None, "http://rabbit.example:15672"),
            ("amqp://u@[::1]:5672/", None, "http://[::1]:15672"),
            ("amqp://u@h:5672/", "https://api.example/rabbit/", "https://api.example/rabbit"),
        ],
    )
    def test_its_default_address_is_on_the_brokers_host(self, broker: str, url: str | None, expected: str) -> None:
        settings = Settings(broker=BrokerSettings(url=broker), management=ManagementSettings(url=url))
        assert expected == Management(settings).url

    @pytest.mark.parametrize(
        ("path", "vhost"), [("", "/"), ("/", "/"), ("/%2F", "/"), ("/a%2Fb", "a/b"), ("/eu", "eu")]
    )
    def test_the_vhost_is_that_of_the_url(self, path: str, vhost: str) -> None:
        assert vhost == vhost_of(Settings(broker=BrokerSettings(url=f"amqp://h:5672{path}")))


def test_findings_as_json_name_the_fix_by_its_name_and_by_that_of_version_0_1() -> None:
    finding = wrong("queue", "gone", "declare it", meaning=UnreachableError)
    fields = {"level": "wrong", "what": "queue", "text": "gone", "fix": "declare it", "exit_code": 69}
    assert [{**fields, "mend": "declare it"}] == findings_as_fields([finding])


def test_a_status_as_json_names_parked_debts_by_their_name_and_by_that_of_version_0_1() -> None:
    cluster = ClusterStatus("eu", "invalidator.eu", parked={"c2": 5})
    shown = as_fields(Status([cluster], []))["clusters"][0]
    assert ({"c2": 5}, {"c2": 5}) == (shown["parked"], shown["owed"])
