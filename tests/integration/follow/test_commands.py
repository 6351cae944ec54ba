"""The commands of an operator: follow, and check of the database that is followed."""

import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from invalidator.follow import slot
from invalidator.operate.diagnosis.followed_database import CREATE, check_follow
from invalidator.settings import RuleSettings, Secret
from tests.integration.follow.followed_shop import Shop, dropped, following, needs
from tests.integration.shell import COMMAND
from tests.integration.shop import changed, configuration


class TestCheck:
    @pytest.fixture
    def findings(self, shop: Shop) -> Callable[..., Awaitable[list[tuple[str, str, str]]]]:
        """Return a call that checks the database, with these templates on products."""

        async def found(*templates: str, **follow: Any) -> list[tuple[str, str, str]]:
            rule = [RuleSettings(on="changed:public.products", evict=list(templates or ("product:{id}",)))]
            settings = msgspec.structs.replace(changed(shop.settings, "follow", **follow), rule=rule)
            return [(finding.level, finding.text, finding.fix) for finding in await check_follow(settings)]

        return found

    async def test_a_follower_that_keeps_up_is_well(self, shop: Shop, findings: Any) -> None:
        async with following(shop.settings):
            found = await findings()
        assert {"ok", "note"} == {level for level, _, _ in found}
        assert "max_slot_wal_keep_size = -1" in next(text for level, text, _ in found if level == "note")
        assert "tables: public.products" == found[-1][1]

    async def test_nobody_follows(self, findings: Any) -> None:
        assert [("wrong", True)] == [
            (level, "systemctl start invalidator-follow" in fix)
            for level, text, fix in await findings()
            if text.endswith("nobody follows")
        ]

    async def test_old_values_that_the_log_does_not_hold(self, shop: Shop, findings: Any) -> None:
        templates = "product:{id}", "price:{before.price?}", "id:{before.id?}"
        full = "ALTER TABLE public.products REPLICA IDENTITY FULL"
        (found,) = [each for each in await findings(*templates) if "old row" in each[1]]
        assert ("wrong", "rules name {before.price}", full) == (found[0], found[1].partition(", and ")[2], found[2])
        shop.sql(full)
        assert [] == [each for each in await findings(*templates) if "old row" in each[1]]

    async def test_a_large_value_that_an_update_leaves(self, shop: Shop, findings: Any) -> None:
        shop.sql("ALTER TABLE products ADD note text")
        (found,) = [each for each in await findings("note:{after.note?}") if "TOAST" in each[1]]
        assert "note" == found[0]

    async def test_columns_and_tables_that_do_not_exist(self, shop: Shop, findings: Any) -> None:
        assert "{colour}" in str(await findings("product:{colour}"))
        shop.sql("DROP TABLE products")
        assert "there is no such table" in str(await findings())

    async def test_a_publication_that_leaves_out_a_table(self, shop: Shop, findings: Any) -> None:
        shop.sql("ALTER PUBLICATION invalidator DROP TABLE products")
        assert [("wrong", CREATE)] == [
            (level, fix)
            for level, text, fix in await findings()
            if text == "the publication leaves out public.products"
        ]

    async def test_a_missing_slot_publication_and_right(self, shop: Shop, findings: Any) -> None:
        shop.sql("DROP ROLE IF EXISTS nobody; CREATE ROLE nobody LOGIN")
        url = Secret(shop.server.url(shop.name).replace("postgres@", "nobody@"))
        found = await findings(url=url, slot="missing", publication="missing")
        assert ["may not read the server's log", "there is no slot missing", "there is no publication missing"] == [
            text.removeprefix("nobody ") for _, text, _ in found
        ]
        assert 'ALTER ROLE "nobody" REPLICATION' == found[0][2]

    async def test_standbys_that_would_lose_the_slot_or_its_place(self, shop: Shop, findings: Any) -> None:
        needs(shop.server, slot.HAS_FAILOVER)
        name = shop.settings.follow.slot

        async def of_failover() -> list[tuple[str, str]]:
            return [(text, fix) for _, text, fix in await findings() if "failover" in text]

        assert [] == await of_failover()
        shop.sql("SELECT pg_create_physical_replication_slot('standby_1')")
        try:
            ((text, fix),) = await of_failover()
            assert ("standby_1" in text, "synchronized_standby_slots = 'standby_1'" in fix) == (True, True)
            dropped(shop)
            shop.sql(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
            ((text, fix),) = await of_failover()
            assert ("failover = false" in text, f"{name} (FAILOVER true)" in fix) == (True, True)
        finally:
            shop.sql("SELECT pg_drop_replication_slot('standby_1')")

    async def test_a_database_that_is_away(self, findings: Any) -> None:
        ((level, text, _),) = await findings(url=Secret("postgresql://nobody@127.0.0.1:1/shop"))
        assert ("wrong", True) == (level, "refused" in text)


class TestCommand:
    @pytest.fixture
    def folder(self, shop: Shop, tmp_path: Path) -> list[str]:
        return ["--config", str(configuration(shop.settings, tmp_path))]

    def test_slot_and_publication_are_made_and_dropped(self, shop: Shop, folder: list[str]) -> None:
        name = shop.settings.follow.slot
        dropped = run("follow", "--drop", *folder)
        assert (0, f"slot {name} and publication invalidator are gone\n") == (dropped.returncode, dropped.stdout)
        assert "0" == shop.sql(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'")
        made = run("follow", "--create", *folder)
        assert f"slot {name} and publication invalidator exist, for: public.products\n" == made.stdout
        assert "products" == shop.sql("SELECT tablename FROM pg_publication_tables WHERE pubname = 'invalidator'")

    def test_a_dry_run_shows_events_and_leaves_the_slot_where_it_is(self, shop: Shop, folder: list[str]) -> None:
        shop.sql("INSERT INTO products VALUES (1, 1)")
        before = shop.confirmed()
        with subprocess.Popen([COMMAND, "follow", "--dry-run", *folder], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert "changed:public.products" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert 0 == process.wait(20)
        assert before == shop.confirmed()

    def test_without_a_slot_it_says_how_to_make_one(self, shop: Shop, folder: list[str]) -> None:
        run("follow", "--drop", *folder)
        done = run("follow", *folder)
        assert 78 == done.returncode
        assert "invalidator follow --create" in done.stderr

    def test_a_killed_follower_goes_on_where_it_was(self, shop: Shop, folder: list[str]) -> None:
        for number in range(3):
            shop.sql(f"INSERT INTO products VALUES ({number}, 1)")
            with subprocess.Popen([COMMAND, "follow", *folder], stderr=subprocess.DEVNULL) as process:
                written = shop.now()
                deadline = time.monotonic() + 30
                while shop.confirmed() < written - 200:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                process.kill()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)
