"""FastAPI: evict from the caches after the commit. uvicorn fastapi_shop:app"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from invalidator.app import AsyncPublisher

publisher = AsyncPublisher(os.environ["BROKER_URL"], app_id="shop")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with publisher:
        yield


app = FastAPI(lifespan=lifespan)


@app.put("/products/{product}", status_code=204)
async def update(product: int, price: float) -> None:
    # … the UPDATE and its COMMIT, with the database of your choice …
    await publisher.publish("product_updated", {"id": product, "price": price})
