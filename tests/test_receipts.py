"""Receipts without a server: allowed destinations, their contents, and how an inbox counts them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from pamqp import commands, header

from invalidator.broker.messages import Receipt
from invalidator.broker.publish.publisher import Properties
from invalidator.broker.wire.delivery import Delivery, wanting_receipts
from invalidator.broker.wire.header import FLAGS_AT
from invalidator.errors import UnreachableError
from invalidator.events.rules import Rules
from invalidator.operate.receipt_inbox import Inbox
from invalidator.worker.planner import Planner
from invalidator.worker.receipts import WAITING, Receipts

DIRECT = "amq.rabbitmq.reply-to.g2dkAA5yYWJiaXRAbG9jYWxob3N0AAAB.dGhlIGtleQ=="


def delivery(body: bytes = b'{"type":"product_updated","id":7}', **properties: Any) -> Delivery:
    content = header.ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
    return Delivery(bytes(16), content.marshal()[FLAGS_AT:], body)


class Post:
    """A publisher that keeps what is sent."""

    def __init__(self, *, broken: bool = False) -> None:
        self.sent: list[tuple[str, str, Receipt]] = []
        self._broken = broken

    async def publish(
        self, body: bytes, *, exchange: str, routing_key: str, properties: Properties, mandatory: bool
    ) -> None:
        assert (exchange, mandatory) == ("", False)
        if self._broken:
            raise UnreachableError("gone")
        self.sent.append((routing_key, properties.correlation_id or "", msgspec.json.decode(body, type=Receipt)))


async def answered(
    *deliveries: Delivery, parked: Mapping[str, Sequence[bytes]] | None = None, prefix: str | None = None
) -> list[tuple[str, str, Receipt]]:
    post, planner = Post(), Planner(Rules([("product_updated", ["product:{id}", "{also?}"])]), body_bytes=1000)
    receipts = Receipts(post, planner, cluster="eu", worker="w", prefix=prefix)  # type: ignore[arg-type]
    receipts.answer(deliveries, parked or {}, milliseconds=1.234)
    sending = asyncio.create_task(receipts.run())
    await asyncio.sleep(0)
    sending.cancel()
    return post.sent


async def test_only_an_event_that_asks_for_a_receipt_gets_one() -> None:
    silent = delivery(correlation_id="1")
    asking = delivery(reply_to=DIRECT, correlation_id="2")
    assert wanting_receipts([silent, asking]) == [asking]
    assert await answered(silent, asking) == [(DIRECT, "2", Receipt("eu", "w", 1.23, evicted=1))]


async def test_a_receipt_names_the_nodes_for_which_one_of_its_own_keys_is_parked() -> None:
    mine = delivery(b'{"type":"product_updated","id":7,"also":["a","b"]}', reply_to=DIRECT, correlation_id="1")
    parked = {"c2": [b"b", b"another's"], "c1": [b"another's"], "c3": [b"b"]}
    ((_, _, receipt),) = await answered(mine, parked=parked)
    assert receipt == Receipt("eu", "w", 1.23, evicted=2, parked=["c2", "c3"])


async def test_the_receipt_of_a_dead_letter_has_the_reason() -> None:
    ((_, _, receipt),) = await answered(delivery(b"{", reply_to=DIRECT, correlation_id="1"))
    assert receipt == Receipt("eu", "w", 1.23, dead="not-json")


@pytest.mark.parametrize(
    "address",
    [
        "amq.rabbitmq.reply-to.x.y",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.g2dk",
        "amq.rabbitmq.reply-to.g2dk.",
        "amq.rabbitmq.reply-to.g2dk.eHh4.eHh4",
        "amq.rabbitmq.reply-to.g2dk.\u00e9\u00e9\u00e9\u00e9",
        "amq.rabbitmq.reply-to",
        "invalidator.eu",
        "replies",
        "",
    ],
)
async def test_no_receipt_is_sent_to_a_forbidden_destination(address: str) -> None:
    assert await answered(delivery(reply_to=address, correlation_id="1"), prefix="replies.") == []


async def test_a_receipt_may_go_to_a_queue_with_the_configured_prefix() -> None:
    ((address, _, _),) = await answered(delivery(reply_to="replies.shop", correlation_id="1"), prefix="replies.")
    assert address == "replies.shop"


async def test_an_event_without_a_correlation_id_gets_no_receipt() -> None:
    assert await answered(delivery(reply_to=DIRECT)) == []


async def test_receipts_that_cannot_be_sent_are_lost_and_hold_up_nothing() -> None:
    planner = Planner(Rules([]), body_bytes=1000)
    receipts = Receipts(Post(broken=True), planner, cluster="eu", worker="w")  # type: ignore[arg-type]
    receipts.answer([delivery(reply_to=DIRECT, correlation_id="1")] * (WAITING + 1), {}, milliseconds=1)
    sending = asyncio.create_task(receipts.run())
    await asyncio.sleep(0)
    assert not sending.done()
    sending.cancel()


class Asked:
    """An inbox that has asked for the receipts of a number of events."""

    def __init__(self, *clusters: str, events: int = 1, seconds: float = 60) -> None:
        self.inbox = Inbox(clusters, seconds=seconds)
        self.ids: list[str] = []
        for _ in range(events):
            properties = Properties()
            self.inbox.ask(properties)
            assert properties.reply_to == "amq.rabbitmq.reply-to"
            self.ids.append(properties.correlation_id or "")

    def comes(self, number: int, receipt: Receipt) -> None:
        self.inbox.take(self.ids[number], msgspec.json.encode(receipt))


class TestInbox:
    async def test_waiting_ends_when_every_cluster_has_answered_for_every_event(self) -> None:
        asked = Asked("eu", "us", events=2)
        waiting = asyncio.create_task(asked.inbox.wait())
        for number, cluster in ((0, "eu"), (0, "us"), (1, "us")):
            asked.comes(number, Receipt(cluster, f"{cluster}-1", 1, evicted=3))
            await asyncio.sleep(0)
        assert asked.inbox.missing == ["eu"]
        assert not waiting.done()
        asked.comes(1, Receipt("eu", "eu-2", 1, evicted=4))
        await waiting
        assert [(one.worker, one.events, one.evicted) for one in asked.inbox.answers] == [
            ("eu-1", 1, 3),
            ("eu-2", 1, 4),
            ("us-1", 2, 6),
        ]

    async def test_clusters_that_did_not_answer_in_time_are_missing(self) -> None:
        asked = Asked("eu", "us", seconds=0.001)
        asked.comes(0, Receipt("us", "us-1", 1))
        await asked.inbox.wait()
        assert asked.inbox.missing == ["eu"]

    async def test_an_event_that_was_delivered_twice_counts_once(self) -> None:
        asked = Asked("eu", events=2)
        for worker in ("eu-1", "eu-2"):
            asked.comes(0, Receipt("eu", worker, 1, evicted=1))
        assert [one.events for one in asked.inbox.answers] == [1]
        assert asked.inbox.missing == ["eu"]

    async def test_the_receipt_of_an_unexpected_cluster_is_shown_too(self) -> None:
        asked = Asked("eu")
        asked.comes(0, Receipt("new", "new-1", 1, parked=["c2"]))
        assert [(one.cluster, one.parked) for one in asked.inbox.answers] == [("new", ["c2"])]
        assert asked.inbox.missing == ["eu"]
