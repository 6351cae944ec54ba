"""The programme of a run: contestants, numbers of events, repetitions."""

from dataclasses import dataclass

from tests.benchmarks.contestants import Contestant, Floor, Limit, Ours, Peer

LIMIT = Limit(name="raw limit")
OWNER = Ours(name="invalidator")
EVERY_NODE = Ours(name="invalidator, every node", copies=3)
THREE_KEYS = Ours(name="invalidator, 3 keys", keys=3)
HUNDRED_KEYS = Ours(name="invalidator, 100 keys", keys=100)
BY_AIO_PIKA = Ours(name="invalidator, consumer = aio-pika", consumer="aio-pika")
TWO_WORKERS = Ours(name="invalidator, 2 workers", workers=2)
FLOOR = Floor(name="raw floor")
CLASSIC_FLOOR = Floor(name="raw floor, classic", queue_type="classic")
ON_CLASSIC = Ours(name="invalidator, classic", queue_type="classic")

_PEERS = "tests.benchmarks.peers."
_CELERY = (
    *("-m", "celery", "-A", f"{_PEERS}celery_worker", "worker", "--concurrency", "2", "--loglevel", "error"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat", "--pool"),
)
#: Celery's default pool, and the one for work that only waits for sockets.
CELERY = Peer(name="celery, prefork", message="celery", arguments=(*_CELERY, "prefork"))
CELERY_THREADS = Peer(name="celery, threads", message="celery", arguments=(*_CELERY, "threads"))
DRAMATIQ = Peer(
    name="dramatiq",
    message="dramatiq",
    arguments=("-m", "dramatiq", f"{_PEERS}dramatiq_worker", "--processes", "2", "--threads", "8"),
    environment=(("dramatiq_queue_prefetch", "1000"),),
)
KOMBU = Peer(name="kombu, HashClient", arguments=("-m", f"{_PEERS}kombu_worker"))
PIKA = Peer(name="pika, HashClient", arguments=("-m", f"{_PEERS}pika_worker"))
AIO_PIKA = Peer(name="aio-pika, aiomcache, uvloop", arguments=("-m", f"{_PEERS}aio_pika_worker"))
FASTSTREAM = Peer(name="FastStream, aiomcache, uvloop", arguments=("-m", f"{_PEERS}faststream_worker"))


@dataclass(frozen=True)
class Programme:
    #: Events in the queue of a fast contestant. The others get a share of it.
    events: int
    #: Contestants that drain, and their share of `events`.
    drains: dict[Contestant, float]
    rounds: int
    #: Contestants whose latency is measured. Each comes after the floor of its queue type.
    timed: list[Contestant]
    rates: tuple[int, ...]
    #: Seconds of publishing at a rate.
    seconds: float
    latency_rounds: int
    #: Seconds of the run after which no further round of drains, or of latencies, begins.
    drains_until: float
    latencies_until: float
    #: Events queued while `evict --direct` is timed.
    queued: int


QUICK = Programme(
    events=100_000,
    drains={LIMIT: 1, OWNER: 1, EVERY_NODE: 1, THREE_KEYS: 1, HUNDRED_KEYS: 0.1, BY_AIO_PIKA: 0.1}
    | {CELERY: 0.05, AIO_PIKA: 0.1},
    rounds=3,
    timed=[FLOOR, OWNER],
    rates=(500, 3000),
    seconds=3,
    latency_rounds=3,
    drains_until=135,
    latencies_until=205,
    queued=200_000,
)

FULL = Programme(
    events=300_000,
    drains={
        LIMIT: 1,
        OWNER: 1,
        EVERY_NODE: 1,
        THREE_KEYS: 1,
        HUNDRED_KEYS: 0.1,
        BY_AIO_PIKA: 0.1,
        Limit(name="raw limit, 2 consumers", workers=2): 1,
        TWO_WORKERS: 1,
        Limit(name="raw limit, classic", queue_type="classic"): 0.5,
        ON_CLASSIC: 0.5,
        Ours(name="invalidator, every node, 3 keys", copies=3, keys=3): 0.5,
        Ours(name="invalidator, every node, 100 keys", copies=3, keys=100): 0.05,
        CELERY: 0.03,
        CELERY_THREADS: 0.05,
        DRAMATIQ: 0.1,
        KOMBU: 0.05,
        PIKA: 0.05,
        AIO_PIKA: 0.1,
        FASTSTREAM: 0.05,
    },
    rounds=5,
    timed=[FLOOR, OWNER, EVERY_NODE, CLASSIC_FLOOR, ON_CLASSIC, CELERY_THREADS, DRAMATIQ, AIO_PIKA],
    rates=(500, 3000),
    seconds=5,
    latency_rounds=5,
    drains_until=1500,
    latencies_until=2250,
    queued=1_000_000,
)
