"""The lines of a history, without a server: what announcements say, and what their absence does not prove."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from invalidator_cli.history import print_history
from pamqp import commands, header

from invalidator.broker.messages import Announcement
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.broker.wire.timestamp import stamp
from invalidator.operate.event_log.entry import Entry
from invalidator.operate.event_log.evictions import Evictions
from invalidator.operate.event_log.history import History
from invalidator.operate.event_log.touches import Touches
from invalidator.settings import EventSettings, MemcachedSettings, RingSettings, RuleSettings, Settings

NODES = {"c1": "127.0.0.1:1", "c2": "127.0.0.1:2"}
SETTINGS = Settings(
    cluster="eu", ring=RingSettings(nodes=NODES), rule=[RuleSettings(on="product_updated", evict=["product:{id}"])]
)
NOW = datetime.now(UTC)
#: Of an event that should have been announced by now.
EARLIER = NOW - timedelta(minutes=5)
EVENT = Entry(EARLIER, "event", "product_updated", "event-1", keys=["product:1"])
#: A heartbeat that says that the worker lives.
ALIVE = Announcement("eu", "eu.host.1.aa", 1)


def delivery(body: bytes, *, at: datetime = NOW, **properties: Any) -> Delivery:
    made = commands.Basic.Properties(headers=stamp(at), **properties)
    content = header.ContentHeader(body_size=len(body), properties=made)
    return Delivery(bytes(9) + b"\0\0", content.marshal()[FLAGS_AT:], body)


def announced(*keys: str, number: int = 1, **more: Any) -> Announcement:
    return Announcement("eu", "eu.host.1.aa", number, list(keys), **more)


def read(
    announcements: Sequence[Announcement | bytes],
    wanted: str = "product:1",
    events: Sequence[Entry] = (EVENT,),
    settings: Settings = SETTINGS,
) -> list[tuple[str, str, list[str], list[str]]]:
    evictions = Evictions(settings, wanted, events)
    bodies = [one if isinstance(one, bytes) else msgspec.json.encode(one) for one in announcements]
    return [(entry.what, entry.id, entry.nodes, entry.keys) for entry in evictions.among(map(delivery, bodies))]


def test_an_eviction_names_the_event_that_it_answers_and_no_other_of_its_batch() -> None:
    batch = announced("product:1", "product:2", events=["event-0", "event-1", "event-2"])
    expected: list[tuple[str, str, list[str], list[str]]] = [("evicted", "event-1", [], ["product:1"])]
    assert expected == read([batch])
    assert expected == read([batch], "event-1")


def test_an_event_that_is_not_in_the_log_is_named_if_it_is_the_only_one() -> None:
    assert [("evicted", "event-7", [], ["product:1"])] == read([announced("product:1", events=["event-7"])], events=[])
    two = announced("product:1", "product:2", events=["event-7", "event-8"])
    assert [("evicted", "", [], ["product:1"])] == read([two], events=[])
    assert [("evicted", "event-7", [], ["product:1", "product:2"])] == read([two], "event-7", events=[])


def test_announcements_of_others_are_left_out_and_so_are_heartbeats() -> None:
    others = [announced("product:2", events=["event-2"], parked=["product:1"]), ALIVE, announced("x", drained="c1")]
    assert [] == read(others)
    assert [] == read(others, "c1", events=[])


def test_parked_keys_are_drained_later_also_in_the_history_of_their_event() -> None:
    story = [
        announced("product:1", events=["event-1"], parked=["c2"]),
        announced("product:1", "product:3", number=2, drained="c2"),
        announced("product:1", number=3, drained="c2"),
    ]
    parked, drained = ("parked", "event-1", ["c2"], ["product:1"]), ("drained", "", ["c2"], ["product:1"])
    assert [parked, drained, drained] == read(story)
    assert [parked, drained] == read(story, "event-1")


def test_a_key_is_parked_only_for_its_own_nodes() -> None:
    settings = msgspec.structs.replace(SETTINGS, memcached=MemcachedSettings(evict_on="owner"))
    parked = announced("product:1", "product:2", parked=["c1", "c2"])
    ((_, _, nodes, _),) = read([parked], settings=settings)
    assert 1 == len(nodes)
    (other,) = set(NODES) - set(nodes)
    assert [("evicted", "", [], ["product:1"])] == read([announced("product:1", parked=[other])], settings=settings)


def test_a_node_that_was_emptied_is_named_and_for_an_event_only_if_it_was_parked_there() -> None:
    emptied = announced(everything=True, drained="c2")
    assert [("emptied", "", ["c2"], [])] == read([emptied])
    assert [] == read([emptied], "event-1")
    parked = announced("product:1", events=["event-1"], parked=["c2"])
    assert ["parked", "emptied"] == [what for what, *_ in read([parked, emptied], "event-1")]


def test_an_eviction_from_the_log_is_healed() -> None:
    assert ["healed"] == [what for what, *_ in read([announced("product:1", events=["event-1"], healed=True)])]


def missing(
    *announcements: tuple[Announcement | bytes, datetime], event: Entry = EVENT, since: datetime = EARLIER
) -> list[str]:
    """Return the doubts about the events that are not announced."""
    evictions = Evictions(SETTINGS, "product:1", [event])
    bodies = [(one if isinstance(one, bytes) else msgspec.json.encode(one), at) for one, at in announcements]
    list(evictions.among(delivery(body, at=at) for body, at in bodies))
    return [entry.detail for entry in evictions.never_announced(since, NOW)]


BEFORE, AFTER = EARLIER - timedelta(minutes=1), EARLIER + timedelta(seconds=30)


def test_an_event_that_no_announcement_names_is_named() -> None:
    assert [""] == missing((ALIVE, BEFORE), (ALIVE, AFTER), (ALIVE, NOW))
    assert [] == missing((ALIVE, BEFORE), (announced("x", events=["event-1"], number=2), AFTER), (ALIVE, NOW))


@pytest.mark.parametrize(
    ("event", "since"),
    [
        (EVENT, EARLIER + timedelta(seconds=1)),
        (msgspec.structs.replace(EVENT, keys=[]), EARLIER),
        (msgspec.structs.replace(EVENT, id=""), EARLIER),
        (msgspec.structs.replace(EVENT, what="poison"), EARLIER),
        (msgspec.structs.replace(EVENT, at=NOW - timedelta(seconds=30)), EARLIER),
        (msgspec.structs.replace(EVENT, at=None), EARLIER),
    ],
    ids=["not kept yet", "no key", "no id", "poison", "recent", "no time"],
)
def test_an_event_that_need_not_have_been_announced_is_not_named(event: Entry, since: datetime) -> None:
    assert [] == missing((ALIVE, NOW), event=event, since=since)


@pytest.mark.parametrize(
    ("announcements", "doubt"),
    [
        ([(ALIVE, BEFORE), (announced("x", number=3), AFTER), (ALIVE, NOW)], "an announcement was lost"),
        ([(ALIVE, BEFORE), (Announcement("eu", "eu.host.1.aa", 2), NOW)], "an announcement was lost"),
        ([(ALIVE, BEFORE), (b"{", AFTER), (ALIVE, NOW)], "an announcement was lost"),
        ([(ALIVE, AFTER), (Announcement("eu", "eu.host.2.bb", 9), NOW)], "the worker eu.host.1 ended since"),
        ([(ALIVE, BEFORE)], "no worker is running"),
        ([], "no worker is running"),
    ],
    ids=["a skipped number", "a heartbeat's number", "unreadable", "ended", "silent", "nothing"],
)
def test_what_may_have_lost_the_announcement_is_named(
    announcements: list[tuple[Announcement | bytes, datetime]], doubt: str
) -> None:
    (said,) = missing(*announcements)
    assert said.startswith(doubt), said


def test_numbers_that_are_no_loss_are_none() -> None:
    again, other = announced("x", number=2), Announcement("eu", "eu.host.1.bb", 7, ["y"])
    assert [""] == missing((ALIVE, BEFORE), (again, AFTER), (again, AFTER), (other, AFTER), (other, NOW), (again, NOW))


def test_a_loss_before_the_event_does_not_excuse_it() -> None:
    assert [""] == missing((ALIVE, BEFORE), (announced("x", number=3), BEFORE), (ALIVE, NOW))


def test_an_eviction_comes_behind_its_event_although_the_clocks_differ() -> None:
    event, other = EVENT, Entry(EARLIER, "gap")
    evicted = Entry(EARLIER - timedelta(seconds=1), "evicted", id="event-0, event-1")
    history = History("product:1", EARLIER, "eu", [evicted, other, event, Entry(None, "event")])
    history.sort()
    assert [None, "event-1", "event-0, event-1", ""] == [entry.id if entry.at else None for entry in history.entries][
        :4
    ]


EVICTED = Entry(EARLIER, "evicted", id="event-1", by="w", cluster="eu", keys=["product:1"])


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            msgspec.structs.replace(EVENT, by="shop", rules=["product:{id}"]),
            "product_updated by shop: product:{id}; event event-1",
        ),
        (msgspec.structs.replace(EVENT, keys=[]), "product_updated: no key; event event-1"),
        (
            msgspec.structs.replace(EVENT, keys=list("abcdefg"), rules=["{all}"]),
            "product_updated: a, b, c, d, e and 2 more, by {all}; event event-1",
        ),
        (EVICTED, "on its nodes of eu, by w; event event-1"),
        (
            msgspec.structs.replace(EVICTED, what="healed"),
            "on its nodes of eu, by w, which read the event again from the log; event event-1",
        ),
        (
            msgspec.structs.replace(EVICTED, what="parked", nodes=["c1", "c2"]),
            "for c1, c2, evicted on the other nodes of eu, by w; event event-1",
        ),
        (
            Entry(EARLIER, "emptied", by="w", cluster="eu", nodes=["c2"]),
            "c2 of eu, by w: more was parked than worker.parked_limit",
        ),
        (
            Entry(EARLIER, "not announced", id="event-1", cluster="eu", detail="no worker is running"),
            "no worker of eu has said within a minute that it evicted this; no worker is running; event event-1",
        ),
        (
            Entry(EARLIER, "dead letter", id="event-1", detail="no-type: it has none"),
            "no-type: it has none; event event-1",
        ),
        (Entry(EARLIER, "gap", detail="since then"), "since then"),
    ],
    ids=lambda value: value.what if isinstance(value, Entry) else "",
)
def test_a_line_says_what_happened_and_where(entry: Entry, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_history(History("product:1", EARLIER, "eu", [entry]))
    day, shown = capsys.readouterr().out.splitlines()
    assert f"{EARLIER:%Y-%m-%d}" == day.split()[0]
    assert [f"{EARLIER:%H:%M:%S.%f}"[:-3], entry.what, line] == re.split(" {2,}", shown)


def test_lines_of_several_days_have_their_dates(capsys: pytest.CaptureFixture[str]) -> None:
    others = [Entry(EARLIER - timedelta(days=1), "gap", detail="then"), Entry(None, "gap", detail="ever")]
    print_history(History("product:1", EARLIER, "eu", [*others, EVICTED]))
    heading, yesterday, ever, _ = capsys.readouterr().out.splitlines()
    assert ["TIME", "UTC", "WHAT", "DETAIL"] == heading.split()
    assert yesterday.startswith(f"{EARLIER - timedelta(days=1):%Y-%m-%d %H:%M:%S}")
    assert ["-", "gap", "ever"] == ever.split()


def test_the_type_of_an_event_may_be_in_a_header() -> None:
    settings = msgspec.structs.replace(
        SETTINGS,
        events=EventSettings(type_header="kind"),
        rule=[RuleSettings(on="product_updated", evict=["home"])],
    )
    content = header.ContentHeader(properties=commands.Basic.Properties(headers={"kind": "product_updated"}))
    (entry,) = Touches(settings, "home").among([Delivery(bytes(11), content.marshal()[FLAGS_AT:], b"{}")])
    assert ("event", "product_updated", ["home"], ["home"]) == (entry.what, entry.type, entry.keys, entry.rules)
