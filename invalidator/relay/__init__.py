"""`invalidator relay`: publishes the events that applications have committed to their outbox, and deletes them there.

relay.py          the service: sessions one after the other, and its state
notifications.py  PostgreSQL's, which wake it at each commit
drain.py          one session: sweeps of the table, published in order on one channel, deleted once confirmed
lower_bound.py    the id behind which sweeps begin
claims.py         the shards of entities that this relay alone publishes
database.py       the outbox's database
"""
