"""Evicts stale entries from memcached when a product changes, driven by events on RabbitMQ.

    events/      an event and the keys that it evicts           broker/      everything said over AMQP
    memcached/   which node owns a key, confirmed deletes       settings/    typed settings, refused by name
    worker/      the service that evicts: read `pipeline`       runtime/     signals, systemd, logs, metrics, health
    relay/       the service that publishes an outbox           warmer.py    the service that reads hot keys again
    app/         publishers and caches for applications         operate/     what the operator's commands do
    follow/      the service that reads the database's log
    assemble.py  settings become rules and nodes                errors.py    one family of errors, with exit codes

ARCHITECTURE.rst, beside this file, follows an event, a read and an outbox row through them.
"""

__version__ = "0.1.0"
