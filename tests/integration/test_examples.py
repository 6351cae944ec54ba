"""Every example in conf/examples works, in its framework, against a real broker."""

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from pymemcache import Client
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from invalidator.app.publish.outbox import Outbox, OutboxEvent
from invalidator.operate.topology import declared
from invalidator.settings import Settings
from invalidator.warmer import Warming
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import Publishing, eventually, publishing, settings_for, working
from tests.servers import free_port

EXAMPLES = Path(__file__).parents[2] / "conf" / "examples"
EVENT = {"type": "product_updated", "id": 17, "price": 109.99}


@pytest.fixture
async def shop(vhost: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Publishing]:
    """Make a vhost with a cluster's queue and no worker, in the environment of the examples."""
    monkeypatch.setenv("BROKER_URL", vhost)
    await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
    async with publishing(vhost) as shop:
        yield shop


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "publisher"):
        module.publisher._timeout = 20.0  # this machine may be busy
    return module


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


async def published(shop: Publishing) -> list[dict[str, Any]]:
    messages = await shop.take("invalidator.eu")
    assert all(message.app_id == "shop" and message.message_id for message in messages)
    return [json.loads(message.body) for message in messages]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """Make the shop's database: one product, and an outbox."""
    url = f"sqlite:///{tmp_path}/shop.db"
    monkeypatch.setenv("DATABASE", url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE product (id INTEGER PRIMARY KEY, price REAL)"))
        connection.execute(sa.text("INSERT INTO product VALUES (17, 119.99)"))
    Outbox().create(engine)
    yield engine
    engine.dispose()


def prices(engine: sa.Engine) -> list[float]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT price FROM product WHERE id = 17")))


def kept(engine: sa.Engine) -> list[dict[str, Any]]:
    """Return the events that wait in the outbox."""
    with engine.connect() as connection:
        return [json.loads(event.message.body) for event in Outbox().read(connection, limit=100)]


@pytest.fixture(params=["broker is there", "broker is away"])
def is_away(request: pytest.FixtureRequest, shop: Publishing, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the examples publish to a broker, and to none."""
    if request.param == "broker is away":
        monkeypatch.setenv("BROKER_URL", f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    return bool(request.param == "broker is away")


async def assert_published_or_kept(shop: Publishing, engine: sa.Engine, *, is_away: bool) -> None:
    assert (([], [EVENT]) if is_away else ([EVENT], [])) == (await published(shop), kept(engine))


async def test_flask(
    shop: Publishing, engine: sa.Engine, is_away: bool, memcached: MemcachedFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCACHED", memcached().address)
    flask_shop = example("flask_shop")
    client = flask_shop.app.test_client()
    assert {"price": 119.99} == client.get("/products/17").json
    answer = client.put("/products/17", data={"price": "109.99"})
    flask_shop.publisher.close()
    flask_shop.cache.close()
    flask_shop.engine.dispose()
    assert answer.status_code == 204
    assert [109.99] == prices(engine)
    await assert_published_or_kept(shop, engine, is_away=is_away)


async def test_fastapi(shop: Publishing, engine: sa.Engine, is_away: bool) -> None:
    import httpx

    fastapi_shop = example("fastapi_shop")
    async with fastapi_shop.app.router.lifespan_context(fastapi_shop.app):
        transport = httpx.ASGITransport(app=fastapi_shop.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answer = await client.put("/products/17", params={"price": 109.99})
    fastapi_shop.engine.dispose()
    assert answer.status_code == 204
    await assert_published_or_kept(shop, engine, is_away=is_away)


async def test_django(shop: Publishing, engine: sa.Engine, is_away: bool) -> None:
    # In a process of its own: Django's settings are the process's.
    done = await asyncio.to_thread(run, EXAMPLES, sys.executable, "-c", DJANGO)
    assert done.returncode == 0, done.stderr
    await assert_published_or_kept(shop, engine, is_away=is_away)


DJANGO = """
import django
from django.conf import settings
from django.db import connection, transaction

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
from django_models import Product, publisher

with connection.schema_editor() as schema:
    schema.create_model(Product)
with transaction.atomic():
    Product(id=17, price=109.99).save()
try:
    with transaction.atomic():
        Product(id=18, price=1).save()
        raise RuntimeError("rolled back")
except RuntimeError:
    pass
publisher.close()
"""


def test_outbox(engine: sa.Engine) -> None:
    example("outbox_shop").update(engine, 17, 109.99)
    assert ([109.99], [EVENT]) == (prices(engine), kept(engine))


def test_orm(engine: sa.Engine) -> None:
    orm_shop = example("orm_shop")
    orm_shop.update(engine, 17, 109.99)
    assert ([109.99], [EVENT]) == (prices(engine), kept(engine))
    with orm_shop.orm.Session(engine) as session:
        session.add(orm_shop.Product(id=18, price=1.0))
        session.delete(session.get_one(orm_shop.Product, 17))
        session.flush()
        assert [17, 18, 17] == [json.loads(event.message.body)["id"] for event in waiting(session.connection())]
        session.rollback()
    assert [EVENT] == kept(engine)
    orm_shop.reprice(engine, 2)
    assert [EVENT, EVENT | {"price": 219.98}] == kept(engine)


def waiting(connection: sa.Connection) -> list[OutboxEvent]:
    return Outbox().read(connection, limit=100)


async def test_asyncsession(database: str) -> None:
    asyncsession_shop = example("asyncsession_shop")
    engine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    async with engine.begin() as connection:
        await connection.run_sync(asyncsession_shop.Base.metadata.create_all)
        await connection.run_sync(Outbox().table.metadata.create_all)
        await connection.execute(sa.text("INSERT INTO product VALUES (17, 119.99), (18, 1.5)"))
    async with AsyncSession(engine) as session:
        await asyncsession_shop.update(session, 17, 109.99)
        await asyncsession_shop.reprice(session, 2)
    async with engine.connect() as connection:
        bodies = [json.loads(event.message.body) for event in await connection.run_sync(waiting)]
        assert [219.98, 3.0] == list(await connection.scalars(sa.text("SELECT price FROM product ORDER BY id")))
    await engine.dispose()
    assert bodies[0] == EVENT
    assert {17, 18} == {body["id"] for body in bodies[1:]}


async def test_near(
    vhost: str, memcached: MemcachedFactory, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shop_on(vhost, memcached, monkeypatch)
    async with working(settings), publishing(vhost) as shop:
        near_shop = example("near_shop")
        await asyncio.to_thread(read_until_kept, near_shop)
        change(engine)
        await shop.update(17)
        await eventually(lambda: near_shop.price_of(17) == 109.99)
    await asyncio.to_thread(near_shop.cache.close)
    near_shop.shared.close()
    near_shop.engine.dispose()


async def test_warmer(
    vhost: str, memcached: MemcachedFactory, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shop_on(vhost, memcached, monkeypatch)
    warmer_shop = example("warmer_shop")
    assert warmer_shop.price_of(17) == 119.99
    stopping = asyncio.Event()
    warming = Warming(settings, warmer_shop.refill)
    async with working(settings), publishing(vhost) as shop, asyncio.TaskGroup() as tasks:
        tasks.create_task(warming.run(stopping))
        await eventually(lambda: warming.health().is_ready)
        change(engine)
        await shop.update(17)
        with closing(Client(os.environ["MEMCACHED"])) as node:  # reads past the cache, so that only the warmer loads
            await eventually(lambda: b"109.99" in (node.get("product:17") or b""))
        stopping.set()
    assert warmer_shop.refill("cart:5") is None
    warmer_shop.cache.close()
    warmer_shop.engine.dispose()


def shop_on(vhost: str, memcached: MemcachedFactory, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a worker, and put the examples into its environment."""
    node = memcached().address
    for name, value in {"BROKER_URL": vhost, "MEMCACHED": node, "CLUSTER": "eu"}.items():
        monkeypatch.setenv(name, value)
    return settings_for(vhost, {"c1": node})


def read_until_kept(near_shop: ModuleType) -> None:
    while not len(near_shop.cache):
        assert near_shop.price_of(17) == 119.99


def change(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE product SET price = 109.99 WHERE id = 17"))


@pytest.fixture(scope="session")
def amqplib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put the example in a folder with amqplib beside it."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: the example for Node is not run")
    folder = tmp_path_factory.mktemp("node")
    done = run(folder, "npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "amqplib@0.10")
    if done.returncode:
        pytest.skip(f"npm cannot install amqplib: {done.stderr.strip()[-200:]}")
    shutil.copy(EXAMPLES / "publish.mjs", folder)
    return folder


async def test_node(shop: Publishing, amqplib: Path) -> None:
    command = ["node", "publish.mjs", "product_updated", '{"id": 17, "price": 109.99}']
    done = await asyncio.to_thread(run, amqplib, *command)
    assert done.returncode == 0, done.stderr
    assert await published(shop) == [EVENT]
    infinite = ["node", "publish.mjs", "product_updated", '{"id": 17, "price": 1e999}']
    done = await asyncio.to_thread(run, amqplib, *infinite)
    assert "price is Infinity" in done.stderr
    async with shop.connection.channel() as channel:
        queue = await channel.declare_queue("invalidator.eu", passive=True)
        await queue.unbind("product.updates", routing_key="")
    done = await asyncio.to_thread(run, amqplib, *command)
    assert "no cluster's queue is bound" in done.stderr


def test_every_example_is_tried() -> None:
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    found = {file.stem.partition("_")[0] for file in EXAMPLES.glob("*.py")}
    elsewhere = {"replica", "test"}  # test_replicas.py has a primary and a replica, ../test_testing.py needs no server
    assert found <= tried | elsewhere
