"""The cost of the gate for Debezium's events: the time from their publishing to the eviction, with it and without.

    COMMIT ─> publish its change, with the transaction's number (the clock is read) ─> worker: visible? ─> node

Each worker has a queue of its own, and they take turns of a second. Every event names a transaction that has just been
committed, so that no earlier snapshot shows it.
"""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

import msgspec
import psycopg
from pamqp import commands

from invalidator.settings import DebeziumSettings, RuleSettings
from tests.benchmarks import amqp
from tests.benchmarks.followed.place import Place, Servers, Times, milliseconds, wait
from tests.benchmarks.latency import Watch, store
from tests.benchmarks.messages import EXCHANGE

WITH, WITHOUT = "with the gate", "without it"
_PROPERTIES = commands.Basic.Properties(content_type="application/json", delivery_mode=2)


def gate(servers: Servers, *, rate: int, turns: int) -> dict[str, list[float]]:
    """Return milliseconds from publishing to eviction, by way. The first turn of each way does not count."""
    with ExitStack() as stack:
        places = {way: stack.enter_context(servers.place()) for way in (WITHOUT, WITH)}
        for way, place in places.items():
            _start_worker(place, has_gate=way == WITH)
        events = rate * len(places) * (1 + turns)
        store(servers.node, events)
        published: dict[str, Times] = {way: {} for way in places}
        with Watch([servers.node]) as watch:
            for turn, first in enumerate(range(0, events, rate)):
                way = list(places)[turn % len(places)]
                times = _publish(places[way], range(first, first + rate), rate=rate)
                published[way] |= times if turn >= len(places) else {}
            gone = watch.gone(events, copies=1)
    return {way: milliseconds(times, gone) for way, times in published.items()}


def _start_worker(place: Place, *, has_gate: bool) -> None:
    rule = RuleSettings(on="debezium:public.products", evict=["product:{id}"])
    debezium = DebeziumSettings(url=place.settings.follow.url if has_gate else None, again_after=0)
    worker = place.start("worker", settings=msgspec.structs.replace(place.settings, rule=[rule], debezium=debezium))
    with closing(amqp.Connection(place.settings.broker.url)) as connection:
        wait(lambda: connection.consumers(place.queue) > 0, worker)


def _publish(place: Place, numbers: Sequence[int], *, rate: int) -> Times:
    times: Times = {}
    with (
        closing(amqp.Connection(place.settings.broker.url)) as connection,
        closing(psycopg.connect(place.url, autocommit=True)) as database,
    ):
        began = time.monotonic()
        for count, number in enumerate(numbers):
            time.sleep(max(0.0, began + count / rate - time.monotonic()))
            ((xid,),) = database.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
            message = amqp.message(_PROPERTIES, _change(number, xid), exchange=EXCHANGE)
            times[number] = time.time()
            connection.socket.sendall(message)
        connection.be_read()
    return times


def _change(number: int, xid: int) -> bytes:
    source = {"connector": "postgresql", "schema": "public", "table": "products", "txId": xid}
    return json.dumps({"op": "u", "before": None, "after": {"id": f"{number:012}"}, "source": source}).encode()
