"""The feeds of an auditor: which event is a change of its own, what each is needed for, and what was missed."""

import json
import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec.structs import replace
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from invalidator.assemble import rules_of
from invalidator.audit.account import Account
from invalidator.audit.changes.event_feed import EventFeed, Logged
from invalidator.audit.changes.feeds import EVENTS_ONLY, Feeds
from invalidator.audit.changes.row_feed import end_of_record, slot_name
from invalidator.audit.changes.sampling import Sample
from invalidator.audit.investigation import Investigation
from invalidator.audit.tracked import Tracked
from invalidator.audit.verdict import Reason
from invalidator.broker.messages import Announcement
from invalidator.broker.wire.delivery import Delivery
from invalidator.follow.changes import APP_ID, commit_of
from invalidator.operate.diagnosis.audit_feeds import audit_feed_findings
from invalidator.settings import AuditSettings, BrokerSettings, FollowSettings, RuleSettings, Secret, Settings
from invalidator.settings.schema import SlotName

ROWS = RuleSettings(on="changed:public.products", evict=["product:{id}"])
OWN = RuleSettings(on="product_updated", evict=["product:{id}", "page:{id}"])
NOWHERE = BrokerSettings(url="amqp://guest@127.0.0.1:1/")
FOLLOWED = FollowSettings(url=Secret("postgresql://nobody@127.0.0.1:1/shop"))


class Receiver:
    """A receiver that writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def published(self, key: str) -> None:
        self.calls.append(("published", key))

    def changed(self, key: str) -> None:
        self.calls.append(("changed", key))

    def committed(self, key: str, commit: int) -> None:
        self.calls.append(("committed", key, commit))

    def lost(self) -> None:
        self.calls.append("lost")


def settings(*rules: RuleSettings, follow: FollowSettings = FOLLOWED) -> Settings:
    return Settings(broker=NOWHERE, follow=follow, rule=list(rules))


def feeds(receiver: Receiver, *rules: RuleSettings, follow: FollowSettings = FOLLOWED) -> Feeds:
    made = settings(*rules, follow=follow)
    return Feeds(made, rules_of(made), Sample(1.0), receiver, read=lambda: made)


def event(type: str, *, app_id: str | None = None, **fields: Any) -> Delivery:
    body = json.dumps({"type": type} | fields).encode()
    header = ContentHeader(0, len(body), Basic.Properties(message_type=type, app_id=app_id)).marshal()
    return Delivery(bytes(11), header[12:], body)


# Events


async def received(receiver: Receiver, delivery: Delivery, *, logged: bool) -> list[Any]:
    feed = EventFeed(
        rules_of(settings(ROWS, OWN)),
        Sample(1.0),
        receiver.published,
        receiver.changed,
        receiver.lost,
        logged=Logged([ROWS, OWN]) if logged else None,
    )
    await feed.received([delivery])
    return receiver.calls


async def test_without_the_log_each_event_is_a_change() -> None:
    calls = await received(Receiver(), event("product_updated", id=1), logged=False)
    assert [(what, key) for key in ("product:1", "page:1") for what in ("published", "changed")] == calls


async def test_an_event_about_a_key_whose_rows_are_in_the_log_is_no_change_of_its_own() -> None:
    calls = await received(Receiver(), event("product_updated", id=1), logged=True)
    assert [("published", "product:1"), ("published", "page:1"), ("changed", "page:1")] == calls


async def test_an_event_that_a_follower_published_is_in_the_log_whatever_its_keys() -> None:
    calls = await received(Receiver(), event("product_updated", app_id=APP_ID, id=1), logged=True)
    assert [("published", "product:1"), ("published", "page:1")] == calls


async def test_an_event_with_a_key_that_cannot_be_one_is_nothing() -> None:
    assert [] == await received(Receiver(), event("product_updated", id="a b"), logged=False)


# What each feed is needed for


@pytest.mark.parametrize(
    ("rules", "follow", "described", "waits_for"),
    [
        ([OWN], FollowSettings(), EVENTS_ONLY, "the broker"),
        ([ROWS, OWN], FOLLOWED, "PostgreSQL's log, and events", "the database"),
        ([ROWS], FOLLOWED, "PostgreSQL's log", "the database"),
    ],
)
def test_the_feeds_say_what_they_are_and_wait_for(
    rules: list[RuleSettings], follow: FollowSettings, described: str, waits_for: str
) -> None:
    made = feeds(Receiver(), *rules, follow=follow)
    assert (described, waits_for) == (str(made), made.waits_for)


def test_the_broker_is_needed_only_for_rules_on_events() -> None:
    for rules, waits_for, calls in (([ROWS], None, []), ([ROWS, OWN], "the broker", ["lost"])):
        receiver = Receiver()
        made = feeds(receiver, *rules)
        made._rows = Linked()
        assert waits_for == made.waits_for
        made._events.linked()
        assert made.waits_for is None
        made._events.lost()
        assert calls == receiver.calls


class Linked:
    """A feed of rows that is there."""

    is_linked = True

    async def listen(self) -> None: ...

    async def catch_up(self) -> bool:
        return True

    async def is_unpublished(self, commit: int) -> bool:
        return commit > 100


# What was published, and what was missed


class Case:
    """An investigation of a change of product:1, with everything linked and no broker to ask."""

    def __init__(self, *, linked: bool = True) -> None:
        self.feeds = feeds(Receiver(), ROWS)
        self.feeds._rows = Linked()
        if linked:
            self.feeds._events.linked()
        made = settings(ROWS)
        self.found = Investigation(made, Sample(1.0), self.feeds, read=lambda: made)
        self.change = Tracked(is_change=True, at=time.monotonic())

    async def reason(self) -> Reason:
        return await self.found.reason("product:1", "127.0.0.1:11211", self.change)


async def test_a_change_without_an_event_is_event_missing() -> None:
    case = Case()
    case.found.committed("product:1", 100)
    assert Reason.EVENT_MISSING is await case.reason()


async def test_a_change_that_the_followers_slot_still_holds_is_under_way() -> None:
    case = Case()
    case.found.committed("product:1", 101)
    assert Reason.FOLLOWER_BEHIND is await case.reason()
    assert Reason.FOLLOWER_BEHIND.is_under_way


async def test_an_event_may_come_a_moment_before_its_row() -> None:
    case = Case()
    case.change.at = time.monotonic() + 1.0
    case.found.published("product:1")
    assert Reason.UNKNOWN is await case.reason()  # it came, and the broker does not say what waits


async def test_an_event_of_an_earlier_change_is_none_of_this_one() -> None:
    case = Case()
    case.found.published("product:1")
    case.change.at = time.monotonic() + 3.0
    assert Reason.EVENT_MISSING is await case.reason()


async def test_without_the_broker_nobody_knows_if_an_event_came() -> None:
    assert Reason.UNKNOWN is await Case(linked=False).reason()
    case = Case()
    case.feeds._events.lost()
    case.feeds._events.linked()
    assert Reason.UNKNOWN is await case.reason()


async def test_announcements_of_other_keys_make_none_of_the_sample_forgotten() -> None:
    case = Case()
    case.found._sample = Sample(0.0, ["product:1"])
    case.found.received(Announcement("main", "w1", 1, ["product:1"]))
    case.found.received(Announcement("main", "w1", 2, [f"page:{number}" for number in range(20_000)]))
    assert Reason.WRITTEN_BACK is await case.reason()


# The log


def test_the_end_of_a_record_is_before_the_header_of_the_next_page() -> None:
    assert [0x2000, 0x1000000, 0x2030, 0x2018 - 8] == list(
        map(end_of_record, (0x2000 + 24, 0x1000000 + 40, 0x2030, 0x2018 - 8))
    )


def test_the_slot_of_any_cluster_has_a_name_that_postgresql_takes() -> None:
    pattern = get_args(SlotName)[1].pattern
    names = {slot_name(cluster) for cluster in ("eu", "EU.west-1:a", "x" * 80) for _ in range(2)}
    assert len(names) == 6
    assert all(re.match(pattern, name) for name in names)


def test_an_event_of_the_log_names_the_position_of_its_commit() -> None:
    assert 0x1528CC8 == commit_of("0000000001528CC8.12")


# What check and status say


@pytest.mark.parametrize(
    ("fed_by", "expected"),
    [("PostgreSQL's log", ("ok", "", True)), (EVENTS_ONLY, ("note", "follow.url: PostgreSQL's log shows it", True))],
)
def test_the_feeds_of_a_running_auditor_are_named(fed_by: str, expected: object, tmp_path: Path) -> None:
    path = tmp_path / "account.sqlite"
    for feed in ("something else before", fed_by):
        Account(path, fed_by=feed).close()
    (found,) = audit_feed_findings(replace(Settings(), audit=AuditSettings(account=str(path))))
    assert expected == (found.level, found.fix, found.text.startswith(f"changes come from {fed_by}"))


def test_without_an_account_nothing_is_said_about_feeds(tmp_path: Path) -> None:
    assert [] == audit_feed_findings(replace(Settings(), audit=AuditSettings(account=str(tmp_path / "none"))))
