"""The example shop, the acts that need no server, and how the demo is called."""

import sqlite3
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from invalidator_cli.demo import acts, measure, report, workers
from invalidator_cli.demo.figures import duration, summary
from invalidator_cli.demo.measure import StaleError, change_until_fresh, open_shop
from invalidator_cli.demo.shop import PRODUCT_UPDATED, ProductCache, ProductService
from invalidator_cli.demo.stores import InProcessStore
from invalidator_cli.main import main

from invalidator import settings
from invalidator.app.bus import LocalEventBus


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
    told: list[Mapping[str, Any]] = []

    def look(event: Mapping[str, Any]) -> None:
        with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as another:  # which sees only what is committed
            committed.extend(another.execute("SELECT price FROM products WHERE id = ?", (event["id"],)).fetchone())

    bus.subscribe(PRODUCT_UPDATED, look)
    bus.subscribe(PRODUCT_UPDATED, told.append)
    service.change_price("1", 109.99)
    assert (committed, told) == ([109.99], [{"id": "1", "price": 109.99}])


def test_polling_finds_what_changed_since_a_revision(service: ProductService) -> None:
    assert service.changed_since(0) == []
    service.change_price("2", 6.00)
    service.change_price("1", 109.99)
    assert [(product.id, product.revision) for product in service.changed_since(0)] == [("2", 1), ("1", 2)]
    assert [product.id for product in service.changed_since(1)] == ["1"]
    assert service.polls == 3


def test_nobody_told_means_that_every_read_is_old(
    monkeypatch: pytest.MonkeyPatch, stores: dict[str, InProcessStore]
) -> None:
    monkeypatch.setattr(acts, "PATIENCE", 0.05)
    act = acts.no_invalidation(stores, _quiet)
    assert act.watched.staleness == []
    assert act.watched.old_reads == act.watched.reads > 0
    assert (act.evicted, act.outdated, act.reloads) == (0, 2, 0)


def test_polling_finds_every_change_within_a_second(stores: dict[str, InProcessStore]) -> None:
    act = acts.polling(stores, _quiet, polls=1)
    assert (act.polls, act.evicted, act.outdated, act.reloads) == (2, 6, 6, 6)
    assert len(act.watched.staleness) == 6
    assert 0 < max(act.watched.staleness) < 2


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


def test_embedded_demo_is_plain_text_in_a_pipe_and_says_what_stands_in() -> None:
    result = CliRunner().invoke(main, ["demo", "--embedded", "--polls", "1", "--updates", "3"])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "a dictionary in this process stands in memcached's place" in result.output
    rows = [line.split() for line in result.output.splitlines() if line[:2] in {"1 ", "2 ", "3 ", "4 "}]
    assert [row[:2] for row in rows] == [["1", "nothing"], ["2", "polling"], ["3", "local"]]
    assert "6 of 6" in result.output


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        ([], "./dev demo starts private ones, --embedded does without"),
        (["--broker", "amqp://h/", "--eu", "h:1"], "--us is missing"),
        (["--broker", "h", "--eu", "h:1", "--us", "h:1"], "write amqp://"),
        (["--embedded", "--stay"], "--embedded uses no server"),
    ],
)
def test_wrong_use_names_the_mend(arguments: list[str], mend: str) -> None:
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert mend in result.output


def _quiet(line: str) -> None:
    pass
