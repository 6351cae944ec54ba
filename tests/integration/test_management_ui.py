"""What an operator finds in RabbitMQ's own pages, with nothing else at hand.

    Connections    which worker of which cluster is on which host
    Queues         what is owed to which node
    Get messages   why a letter is dead

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
WITHIN = 30_000

Picture = Callable[..., Awaitable[None]]


@pytest.fixture
async def page(own_broker: Broker, tmp_path: Path) -> AsyncIterator["Page"]:
    """The management pages, logged in."""
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
    """Two clusters at work, a node of one of them down, and an event without its id."""
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
    """`picture(name, of)` keeps the page from its top, or from that element's, to its end, where that is asked for."""

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


async def test_the_pages_say_who_works_what_is_owed_and_why_a_letter_is_dead(
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
    letter = page.locator("#msg-wrapper")
    for name, value in (
        ("reason", "missing-field"),
        ("detail", 'the field "id" is missing or null ({id?} would allow it)'),
        ("cluster", "eu"),
    ):
        await expect(letter.locator(f"tr:has(> th:text-is('x-invalidator-{name}:')) > td")).to_have_text(value)
    await picture("dead-letter", letter, from_top=False)

    await page.goto(f"{own_broker.management_url}/#/connections")
    for cluster in ("eu", "us"):
        for does in ("consumes", "publishes", "announces"):
            worker = re.compile(rf"invalidator worker {cluster} @{re.escape(socket.gethostname())} \[\d+\] {does}")
            await expect(page.locator("td", has_text=worker)).to_have_count(1, timeout=WITHIN)
    await picture("connections", page.locator("table.list"))
