"""Flask: evict from the caches after the commit. FLASK_APP=flask_shop flask run"""

import os
import sqlite3
from contextlib import closing

from flask import Flask, request

from invalidator.app import Publisher

app = Flask(__name__)
#: One for all threads; it connects at its first publish, so it may be made before a server forks.
publisher = Publisher(os.environ["BROKER_URL"], app_id="shop")


@app.put("/products/<int:product>")
def update(product: int) -> tuple[str, int]:
    price = float(request.form["price"])
    with closing(sqlite3.connect(os.environ["DATABASE"])) as database, database:
        database.execute("UPDATE product SET price = ? WHERE id = ?", (price, product))
    publisher.publish("product_updated", {"id": product, "price": price})
    return "", 204
