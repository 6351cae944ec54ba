"""Celery, prefork: late acknowledgement, no results, no events, no gossip."""

from celery import Celery, signals  # type: ignore[import-not-found]

from tests.benchmarks.peers.surroundings import BROKER, PREFETCH, QUEUE, hash_client

app = Celery("evicting", broker=BROKER)
app.conf.update(
    task_default_queue=QUEUE,
    task_create_missing_queues=True,
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=PREFETCH,
    worker_send_task_events=False,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_heartbeat=0,
)
client = hash_client()


def connect(**_: object) -> None:
    """Connect in each process of the pool, which must not share connections."""
    global client  # noqa: PLW0603
    client = hash_client()


signals.worker_process_init.connect(connect)


def evict(product: str) -> None:
    client.delete(f"product:{product}")


evict = app.task(name="evict")(evict)
