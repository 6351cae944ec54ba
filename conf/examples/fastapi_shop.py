"""FastAPI: evict from the caches after the commit. uvicorn fastapi_shop:app

The customer is answered also while the broker is away: the event then waits in the outbox for `invalidator relay`.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from fastapi import FastAPI

from invalidator.app import AsyncPublisher, Event, InvalidatorError, Outbox

engine = sa.create_engine(os.environ["DATABASE"])
outbox = Outbox(app_id="shop")
publisher = AsyncPublisher(os.environ["BROKER_URL"], app_id="shop")
log = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with publisher:
        yield


app = FastAPI(lifespan=lifespan)


async def publish(event: Event) -> None:
    """Publish an event of a committed change, or keep it in the outbox."""
    try:
        await publisher.publish(event.type, event.fields)
    except InvalidatorError as error:
        log.warning("kept in the outbox: %s", error)
        await asyncio.to_thread(keep, event)


def keep(event: Event) -> None:
    with engine.begin() as connection:
        outbox.append(connection, event)


@app.put("/products/{product}", status_code=204)
async def update(product: int, price: float) -> None:
    # … the UPDATE and its COMMIT, with the database of your choice …
    await publish(Event("product_updated", {"id": product, "price": price}))
