"""RabbitMQ's own pages, for an operator with nothing else at hand.

    Connections    the workers of each cluster, and their hosts
    Queues         the debts parked for each node
    Get messages   the reason of a dead letter

The pages are read in headless Chromium. `./dev test tests/integration/test_management_ui.py --pictures` writes them to
conf/pictures, too, as the handbook shows them.
"""

import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import Publishing, eventually, publishing, settings_for, worker_process
from tests.servers import Broker

if find_spec("playwright"):
    from playwright.async_api import Locator, Page, async_playwright, expect

PICTURES = Path(__file__).parents[2] / "conf/pictures"
CHROMIUM = shutil.which("chromium")
#: No sandbox, since root can have none; and nothing that calls home.
OPTIONS = (
    *("--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
#: High enough that nothing scrolls under the pages' head, which stays where it is.
WIDTH, HEIGHT = 1280, 2000
#: Milliseconds until numbers are on the page: RabbitMQ gathers them every five seconds, and the page asks as often.
WITHIN = 60_000

Picture = Callable[..., Awaitable[None]]


@pytest.fixture
async def page(own_broker: Broker, tmp_path: Path) -> AsyncIterator["Page"]:
    """Yield the management pages, logged in."""
    require("chromium", installed=bool(CHROMIUM and find_spec("playwright")))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=CHROMIUM, args=OPTIONS, viewport={"width": WIDTH, "height": HEIGHT}
        )
        page = browser.pages[0]
        page.set_default_timeout(WITHIN)
        await page.goto(own_broker.management_url)
        await page.fill("input[name=username]", "guest")
        await page.fill("input[name=password]", "guest")
        await page.click("input[type=submit]")
        await page.wait_for_selector("#tabs")
        yield page
        await browser.close()


@pytest.fixture
async def shop(own_broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> AsyncIterator[Publishing]:
    """Yield a shop of two working clusters, with a node of one of them down and an event without its id."""
    alive, down = memcached(), memcached()
    eu = settings_for(own_broker.url(), {"cache1": alive.address, "cache2": down.address}, cluster="eu")
    us = settings_for(own_broker.url(), {"cache1": alive.address}, cluster="us")
    async with AsyncExitStack() as stack:
        for settings in (eu, us):
            process = stack.enter_context(worker_process(settings, tmp_path))
            await eventually(partial(says, process, "consuming"))
        down.kill()
        shop = await stack.enter_async_context(publishing(own_broker.url()))
        await shop.update("abc-123", "abc-124", "abc-125")
        await shop.raw(b'{"type": "product_updated", "price": 109.99}')
        yield shop


def says(process: "subprocess.Popen[str]", word: str) -> bool:
    assert process.stderr
    return word in process.stderr.readline()


@pytest.fixture
def picture(request: pytest.FixtureRequest, page: "Page") -> Picture:
    """Return `picture(name, of)`, which saves the page from its top, or the element's, to the element's end."""

    async def take(name: str, of: "Locator", *, from_top: bool = True) -> None:
        if request.config.getoption("--pictures"):
            await page.wait_for_function("() => jQuery(':animated').length == 0")
            box = await of.bounding_box()
            assert box
            top = 0 if from_top else box["y"]
            height = box["y"] + box["height"] + 10 - top
            await page.mouse.move(0, 0)
            await page.screenshot(
                path=PICTURES / f"{name}.png", clip={"x": 0, "y": top, "width": WIDTH, "height": height}
            )

    return take


async def test_the_pages_name_workers_parked_debts_and_the_reasons_of_dead_letters(
    shop: Publishing, page: "Page", own_broker: Broker, picture: Picture
) -> None:
    await page.goto(f"{own_broker.management_url}/#/queues")
    for queue, count in (("eu.parked.cache2", "[1-3]"), ("eu.parked.cache1", "0"), ("us.dead", "1")):
        # The first number in its row; RabbitMQ 4 has a column more before it.
        waiting = page.locator("tr", has_text=f"invalidator.{queue}").locator("td.r").first
        await expect(waiting).to_have_text(re.compile(count), timeout=WITHIN)
    await picture("queues", page.locator("table.list"))

    await page.goto(f"{own_broker.management_url}/#/queues/%2F/invalidator.eu.dead")
    await page.click("h2:has-text('Get messages')")
    await page.click("input[value='Get Message(s)']")
    message = page.locator("#msg-wrapper")
    for name, value in (
        ("reason", "missing-field"),
        ("detail", 'the field "id" is missing or null ({id?} would allow it)'),
        ("cluster", "eu"),
    ):
        await expect(message.locator(f"tr:has(> th:text-is('x-invalidator-{name}:')) > td")).to_have_text(value)
    await picture("dead-letter", message, from_top=False)

    await page.goto(f"{own_broker.management_url}/#/connections")
    for cluster in ("eu", "us"):
        for does in ("consumes", "publishes", "announces"):
            worker = re.compile(rf"invalidator worker {cluster} @{re.escape(socket.gethostname())} \[\d+\] {does}")
            await expect(page.locator("td", has_text=worker)).to_have_count(1, timeout=WITHIN)
    await picture("connections", page.locator("table.list"))
