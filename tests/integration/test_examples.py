"""Every example in conf/examples works, in its framework, against a real broker."""

import asyncio
import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from invalidator.operate.topology import declared
from tests.integration.shop import Publishing, publishing, settings_for

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
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)


async def published(shop: Publishing) -> list[dict[str, Any]]:
    messages = await shop.take("invalidator.eu")
    assert all(message.app_id == "shop" and message.message_id for message in messages)
    return [json.loads(message.body) for message in messages]


async def test_flask(shop: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "shop.db"
    monkeypatch.setenv("DATABASE", str(database))
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, price REAL)")
        connection.execute("INSERT INTO product VALUES (17, 119.99)")
    flask_shop = example("flask_shop")
    answer = flask_shop.app.test_client().put("/products/17", data={"price": "109.99"})
    flask_shop.publisher.close()
    assert answer.status_code == 204
    assert connection.execute("SELECT price FROM product").fetchall() == [(109.99,)]
    connection.close()
    assert await published(shop) == [EVENT]


async def test_fastapi(shop: Publishing) -> None:
    import httpx

    app = example("fastapi_shop").app
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answer = await client.put("/products/17", params={"price": 109.99})
    assert answer.status_code == 204
    assert await published(shop) == [EVENT]


async def test_django(shop: Publishing) -> None:
    # In a process of its own: Django's settings are the process's.
    done = await asyncio.to_thread(run, EXAMPLES, sys.executable, "-c", DJANGO)
    assert done.returncode == 0, done.stderr
    assert await published(shop) == [EVENT]


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


async def test_outbox(shop: Publishing, tmp_path: Path) -> None:
    outbox_shop = example("outbox_shop")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    outbox_shop.products.create(engine)
    outbox_shop.outbox.create(engine)
    outbox_shop.update(engine, 17, 109.99)
    with engine.begin() as connection:
        (event,) = outbox_shop.outbox.take(connection, 10)
    engine.dispose()
    assert json.loads(event.message.body) == EVENT


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
    assert found <= tried | {"replica"}  # which test_replicas.py tries, on a primary and a replica
