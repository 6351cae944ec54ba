"""The example shop, the acts that need no server, and how the demo is called."""

import io
import sqlite3
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from invalidator_cli.demo import acts, audited, hot, measure, report, warming, workers
from invalidator_cli.demo.figures import ASCII_BLOCKS, columns, duration, summary
from invalidator_cli.demo.measure import StaleError, change_until_fresh, open_shop
from invalidator_cli.demo.shop import PRODUCT_UPDATED, Product, ProductCache, ProductService
from invalidator_cli.demo.stores import InProcessStore
from invalidator_cli.main import main

from invalidator import settings
from invalidator.app.publish.bus import LocalEventBus


@pytest.fixture
def bus() -> LocalEventBus:
    return LocalEventBus()


@pytest.fixture
def service(tmp_path: Path, bus: LocalEventBus) -> Iterator[ProductService]:
    service = ProductService(tmp_path / "shop.sqlite", bus)
    service.add("1", 99.99)
    service.add("2", 5.00)
    yield service
    service.close()


@pytest.fixture
def stores() -> dict[str, InProcessStore]:
    return {"eu": InProcessStore(), "us": InProcessStore()}


def test_cache_serves_the_old_price_until_its_copy_is_dropped(service: ProductService) -> None:
    cache = ProductCache("eu", InProcessStore(), service)
    assert cache.product("1").price == 99.99
    service.change_price("1", 109.99)
    assert cache.product("1").price == 99.99
    cache.drop("1")
    cache.drop("1")
    assert (cache.product("1").price, cache.dropped, service.loads) == (109.99, 1, 2)


def test_service_commits_before_it_publishes(service: ProductService, bus: LocalEventBus, tmp_path: Path) -> None:
    committed: list[float] = []
    received: list[Mapping[str, Any]] = []

    def read_committed(event: Mapping[str, Any]) -> None:
        with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as another:  # which sees only committed rows
            committed.extend(another.execute("SELECT price FROM products WHERE id = ?", (event["id"],)).fetchone())

    bus.subscribe(PRODUCT_UPDATED, read_committed)
    bus.subscribe(PRODUCT_UPDATED, received.append)
    service.change_price("1", 109.99)
    assert (committed, received) == ([109.99], [{"id": "1", "price": 109.99}])


def test_polling_finds_what_changed_since_a_revision(service: ProductService) -> None:
    assert service.changed_since(0) == []
    service.change_price("2", 6.00)
    service.change_price("1", 109.99)
    assert [(product.id, product.revision) for product in service.changed_since(0)] == [("2", 1), ("1", 2)]
    assert [product.id for product in service.changed_since(1)] == ["1"]
    assert service.polls == 3


def test_an_import_changes_every_price_and_is_one_event(service: ProductService, bus: LocalEventBus) -> None:
    received: list[Mapping[str, Any]] = []
    bus.subscribe(PRODUCT_UPDATED, lambda event: received.append({**event, "found": service.changed_since(0)}))
    service.import_prices({"1": 109.99, "2": 6.00})
    assert received == [{"id": ["1", "2"], "found": [Product("1", 109.99, 1), Product("2", 6.00, 2)]}]


def test_every_process_records_its_loads_in_the_same_log(
    monkeypatch: pytest.MonkeyPatch, service: ProductService, tmp_path: Path
) -> None:
    monkeypatch.setattr(hot, "LOAD_SECONDS", 0.0)
    customer, warmer = (hot.SlowDatabase(tmp_path / "shop.sqlite", by=by) for by in hot.BY)
    assert customer.load("1") == service.load("1")
    warmer.load("2")
    loads = customer.loads()
    assert [load.by for load in loads] == ["customer", "warmer"]
    assert warmer.loads(since=loads[1].at) == loads[1:]


def test_the_warmer_reads_products_and_nothing_else() -> None:
    assert hot.refill("product:best-1")
    assert hot.refill("category:7") is None


def test_the_auditor_reads_the_truth_of_products_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, service: ProductService, tmp_path: Path
) -> None:
    monkeypatch.setenv(audited.DATABASE, str(tmp_path / "shop.sqlite"))
    read = audited.source("product:1")
    assert read
    assert {"id": "1", "price": 99.99, "revision": 0} == read()
    assert audited.source("category:7") is None


class SlowShop:
    """A shop without an auditor, whose first eviction comes late: `audited.AuditedShop`, its service and its store."""

    def __init__(self) -> None:
        self.service = self.store = self
        self.changes = 0
        self.stored: bytes | None = None

    def change_price(self, id: str, price: float) -> float:
        self.changes += 1
        self.stored = None
        return time.monotonic() - (1.6 if self.changes == 1 else 0.0)

    def get(self, key: str) -> bytes | None:
        return self.stored

    def set(self, key: str, value: bytes) -> None:
        self.stored = value


def test_an_old_price_that_is_planted_too_late_for_the_auditor_is_planted_again() -> None:
    shop: Any = SlowShop()
    planted = audited._plant(shop, Product("1", 99.99, 0))
    assert (2, b'{"id": "1", "price": 99.99, "revision": 0}') == (shop.changes, shop.stored)
    assert planted.changed <= planted.evicted <= planted.stored


def test_loads_are_counted_in_slices_and_late_ones_in_the_last() -> None:
    loads = [
        hot.DatabaseLoad(at, by)
        for at, by in [(0.01, "customer"), (0.05, "warmer"), (0.19, "warmer"), (0.31, "customer")]
    ]
    run = warming.Run(warming.Pace("", 1, 1, seconds=0.3), True, [0.001] * 99 + [0.02], cold=1, loads=loads)
    assert [run.counts(*hot.BY), run.counts("warmer"), run.counts("customer")] == [[2, 1, 1], [1, 1, 0], [1, 0, 1]]
    assert (run.count("warmer"), run.p99) == (2, 0.02)


def test_plot_reaches_the_top_and_shows_every_count_above_zero() -> None:
    assert columns([0, 1, 9, 18, 24], top=24, height=3) == ["   ▂█", "  ▁██", " ▁███"]
    assert columns([0, 1, 4, 8], top=8, height=2, blocks=ASCII_BLOCKS) == ["   #", " .##"]
    assert columns([0, 0], top=0, height=1) == ["  "]


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", "█"), ("ascii", "#")])
def test_plot_and_table_are_plain_and_narrow_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, encoding: str, column: str
) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setenv("COLUMNS", "80")
    runs = [
        warming.Run(pace, is_warmed, [0.02] * 1234, cold=1000, loads=[hot.DatabaseLoad(0.1, "customer")])
        for is_warmed in (False, True)
        for pace in warming.PACES
    ]
    printed = report.Report()
    printed.loads(runs)
    printed.customers(runs)
    pipe.flush()
    lines = pipe.buffer.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(column in line for line in lines) == 2 * report.HEIGHT
    assert len([line for line in lines if "1000 of 1234" in line and "20.0 ms" in line]) == len(runs)
    assert not any("\x1b" in line for line in lines)


def test_without_invalidation_every_read_is_old(
    monkeypatch: pytest.MonkeyPatch, stores: dict[str, InProcessStore]
) -> None:
    monkeypatch.setattr(acts, "PATIENCE", 0.05)
    act = acts.no_invalidation(stores, _quiet)
    assert act.watched.staleness == []
    assert act.watched.old_reads == act.watched.reads > 0
    assert (act.evicted, act.outdated, act.reloads) == (0, 2, 0)


def test_polling_finds_every_change(stores: dict[str, InProcessStore]) -> None:
    act = acts.polling(stores, _quiet, polls=1)
    assert (act.evicted, act.outdated, act.reloads) == (6, 6, 6)
    assert act.polls >= 2
    assert len(act.watched.staleness) == 6


def test_polling_goes_on_until_every_change_is_found_on_a_slow_machine(
    monkeypatch: pytest.MonkeyPatch, stores: dict[str, InProcessStore]
) -> None:
    """Changes that drift past the last planned poll are found by later ones."""
    change_price = ProductService.change_price

    def slowly(service: ProductService, id: str, price: float) -> float:
        time.sleep(0.5)
        return change_price(service, id, price)

    monkeypatch.setattr(ProductService, "change_price", slowly)
    monkeypatch.setattr(measure, "DEADLINE", 3.0)
    act = acts.polling(stores, _quiet, polls=1)
    assert (act.evicted, act.polls > 2) == (6, True)


def test_local_bus_evicts_both_copies_of_every_update(stores: dict[str, InProcessStore]) -> None:
    act = acts.local_bus(stores, _quiet, updates=25)
    assert (act.polls, act.evicted, act.outdated, act.reloads) == (0, 50, 50, 50)
    assert len(act.watched.staleness) == 50


def test_copy_that_nobody_drops_ends_the_story(
    monkeypatch: pytest.MonkeyPatch, bus: LocalEventBus, stores: dict[str, InProcessStore]
) -> None:
    monkeypatch.setattr(measure, "DEADLINE", 0.05)
    with open_shop(bus, stores) as shop:
        bus.subscribe(PRODUCT_UPDATED, shop.caches[0].on_product_updated)
        with pytest.raises(StaleError, match=r"^1 copies"):
            change_until_fresh(shop, {"1": 109.99})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.000213, "0.21 ms"), (0.00471, "4.7 ms"), (0.0999, "99.9 ms"), (0.512, "512 ms"), (1.04, "1.0 s")],
)
def test_durations_have_few_figures(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_summary_names_median_and_worst() -> None:
    assert summary([0.001, 0.3, 0.002]) == "2.0 ms (median), 300 ms (worst)"


def test_worker_configuration_is_one_the_worker_loads(tmp_path: Path) -> None:
    file = tmp_path / "eu.toml"
    file.touch(mode=0o600)
    file.write_text(workers.configuration("eu", "amqp://shop:s%22cret@broker/", [("127.0.0.1", 11211), ("::1", 11212)]))
    loaded = settings.load(file, environ={})
    assert loaded.cluster == "eu"
    assert list(loaded.nodes().values()) == [("127.0.0.1", 11211), ("::1", 11212)]
    assert [(rule.on, rule.evict) for rule in loaded.rule] == [("product_updated", ["product:{id}"])]
    assert tomllib.loads(file.read_text())["broker"]["url"] == "amqp://shop:s%22cret@broker/"


def test_only_the_default_password_is_shown() -> None:
    management = "http://127.0.0.1:15672"
    assert report.login(management, "amqp://guest:guest@h/") == f"{management}  (user guest, password guest)"
    assert report.login(management, "amqp://shop:secret@h/") == f"{management}  (user shop, password as in --broker)"
    assert report.shown("amqp://guest:guest@h/") == "amqp://guest:guest@h/"
    assert "secret" not in report.shown("amqp://shop:secret@h/")


def test_embedded_demo_is_plain_text_in_a_pipe_and_names_the_stand_in() -> None:
    result = CliRunner().invoke(main, ["demo", "--embedded", "--polls", "1", "--updates", "3"])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "a dictionary in this process takes memcached's place" in result.output
    rows = [line.split() for line in result.output.splitlines() if line[:2] in {"1 ", "2 ", "3 ", "4 "}]
    assert [row[:2] for row in rows] == [["1", "nothing"], ["2", "polling"], ["3", "local"]]
    assert "6 of 6" in result.output


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ([], "./dev demo starts private ones, and --embedded needs none"),
        (["--broker", "amqp://h/", "--eu", "h:1"], "--us is missing"),
        (["--broker", "h", "--eu", "h:1", "--us", "h:1"], "should read amqp://"),
        (["--embedded", "--stay"], "--embedded uses no server"),
    ],
)
def test_wrong_use_names_the_fix(arguments: list[str], fix: str) -> None:
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert fix in result.output


def _quiet(line: str) -> None:
    pass
