"""Consumers without any library, to which all others are compared. Each is a process of its own.

count BROKER QUEUE FILE     the limit: counts deliveries in FILE, acknowledges, evicts nothing
floor BROKER QUEUE NODE…    the floor: one delivery, one delete and its answer, one acknowledgement, and the next
listen BROKER EXCHANGE KEY  receives announcements and does nothing with them
"""

import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from pamqp import commands

from tests.benchmarks import amqp
from tests.benchmarks.messages import FIRST_KEY

#: Deliveries acknowledged together, few enough that a prefetch of 2,000 never runs dry.
ACK_EVERY = 500
BODY = 3


def count(broker: str, queue: str, file: str) -> None:
    connection = amqp.Connection(broker)
    delivery = connection.consume(queue)
    with Path(file).open("r+b") as opened:
        shared = mmap.mmap(opened.fileno(), 8)
    counted = acknowledged = 0
    rest = b""
    for data in connection.reads():
        # A delivery counts when its first frame arrives. It is acknowledged a read later, when all of it has.
        if counted - acknowledged >= ACK_EVERY:
            connection.socket.sendall(amqp.ack(counted))
            acknowledged = counted
        joined = rest + data
        counted += joined.count(delivery)
        rest = joined[-len(delivery) + 1 :]
        struct.pack_into("=Q", shared, 0, counted)


def floor(broker: str, queue: str, *nodes: str) -> None:
    connection = amqp.Connection(broker)
    connection.consume(queue)
    sockets = [_dial(node) for node in nodes]
    tag = 0

    def handle(kind: int, payload: bytes) -> None:
        nonlocal tag
        if kind != BODY:
            return
        tag += 1
        found = FIRST_KEY.search(payload)
        assert found
        node = sockets[int(found[1]) % len(sockets)]
        node.sendall(b"delete product:%b\r\n" % found[1])
        assert node.recv(100).endswith(b"\r\n")
        connection.socket.sendall(amqp.ack(tag))

    rest = b""
    for data in connection.reads():
        rest = amqp.split(rest + data, handle)


def listen(broker: str, exchange: str, key: str) -> None:
    connection = amqp.Connection(broker)
    queue = connection.call(commands.Queue.Declare(exclusive=True), commands.Queue.DeclareOk).queue
    connection.call(commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=key), commands.Queue.BindOk)
    connection.consume(queue, no_ack=True)
    for _ in connection.reads():
        pass


def _dial(node: str) -> socket.socket:
    host, port = node.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    roles: dict[str, Callable[..., None]] = {"count": count, "floor": floor, "listen": listen}
    roles[role](*arguments)
    sys.exit(f"{role}: the broker closed the connection ({os.getpid()})")
