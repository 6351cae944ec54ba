"""A liar between publisher and broker: it drops published messages, and confirms them itself."""

import struct
from collections.abc import Callable, Iterator

from tests.servers import TcpProxy

#: Frames of type method, header and body, on a channel: type, channel, size.
FRAME = struct.Struct(">BHL")
METHOD, HEADER = 1, 2
PUBLISH, ACK = struct.pack(">HH", 60, 40), struct.pack(">HH", 60, 80)
GREETING = b"AMQP"
#: The channel on which our publishers publish; the second one has their statements.
CHANNEL = 1


class Liar:
    """Rewrites the bytes of one publisher's one connection, through a proxy."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.is_lying = False
        #: Messages that were dropped, and confirmed.
        self.dropped = 0
        self._proxy = proxy
        self._published = 0
        #: The publisher's delivery tags of the messages that the broker got, by the broker's own.
        self._passed: list[int] = []
        self._drops = False
        proxy.requests.rewrite = _of_frames(self._request)
        proxy.replies.rewrite = _of_frames(self._reply)

    def _request(self, type: int, channel: int, payload: bytes) -> bytes | None:
        """Return what the broker gets of a frame, None for nothing."""
        if channel != CHANNEL:
            return payload
        if type == METHOD:
            self._drops = False
            if payload.startswith(PUBLISH):
                self._published += 1
                self._drops = self.is_lying
                if self._drops:
                    self.dropped += 1
                    self._proxy.inject(_frame(METHOD, CHANNEL, ACK + struct.pack(">Q?", self._published, False)))
                else:
                    self._passed.append(self._published)
        return None if self._drops else payload

    def _reply(self, type: int, channel: int, payload: bytes) -> bytes:
        """Return an ack with the tag that the publisher knows."""
        if (type, channel) != (METHOD, CHANNEL) or not payload.startswith(ACK):
            return payload
        tag, multiple = struct.unpack_from(">Q?", payload, 4)
        return ACK + struct.pack(">Q?", self._passed[tag - 1], multiple)


def _of_frames(rewrite: Callable[[int, int, bytes], bytes | None]) -> Callable[[bytes], bytes]:
    left = bytearray()

    def rewritten(data: bytes) -> bytes:
        left.extend(data)
        return b"".join(_rewritten(left, rewrite))

    return rewritten


def _rewritten(left: bytearray, rewrite: Callable[[int, int, bytes], bytes | None]) -> Iterator[bytes]:
    if left.startswith(GREETING):
        yield bytes(left[:8])
        del left[:8]
    while len(left) >= FRAME.size:
        type, channel, size = FRAME.unpack_from(left)
        if len(left) < FRAME.size + size + 1:
            return
        payload = rewrite(type, channel, bytes(left[FRAME.size : FRAME.size + size]))
        if payload is not None:
            yield _frame(type, channel, payload)
        del left[: FRAME.size + size + 1]


def _frame(type: int, channel: int, payload: bytes) -> bytes:
    return FRAME.pack(type, channel, len(payload)) + payload + b"\xce"
