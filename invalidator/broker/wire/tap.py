"""The tap: it takes our consumers' deliveries out of the bytes that the broker sends, and leaves the rest to aiormq.

    socket ─> frames ─┬─ Basic.Deliver of a consumer of ours, its header, its body ─> sink, a read at a time
                      └─ everything else ─> guard ─> aiormq

The project touches AMQP's bytes here, in header.py, in properties.py and in guard.py, and nowhere else. aiormq spends
three reads, a lock and a task on each message; here a message costs three slices. Source of the layout: AMQP 0-9-1,
sections 2.3 and 4.2.

Rules of this file:

1. Only whole frames are inspected, and only on a consumer's channel: a frame is ours when it begins a delivery with its
   tag, or continues one. All others go to aiormq in order, changed only where it would fail on them (see guard.py).
2. Nothing is guessed from malformed frames: the connection is ended, and the consumer starts a new one.
"""

from collections.abc import Callable
from struct import Struct, pack
from struct import error as CutOff  # noqa: N812
from typing import NamedTuple

from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.guard import HEADER, METHOD, guarded
from invalidator.broker.wire.header import FLAGS_AT

Sink = Callable[[list[Delivery]], None]

BODY = 3
FRAME_END = 0xCE
#: Bytes before a frame's payload: type, channel, size.
HEAD = 7
#: Basic.Deliver: class 60, method 60.
DELIVER = b"\x00\x3c\x00\x3c"
#: The shortest arguments behind Basic.Deliver's consumer tag: delivery tag, redelivered, two empty strings.
ARGUMENTS = 11
#: Shortest content header: class, weight, body size, property flags.
SHORTEST_HEADER = FLAGS_AT + 2
#: The beginning of every content header: class 60, weight 0.
CONTENT = b"\x00\x3c\x00\x00"
#: Number of shapes of a consumer's deliveries at which all are forgotten.
SHAPES = 256
#: Larger than any frame a broker may send: RabbitMQ's frame_max is 131,072 by default.
LARGEST_FRAME = 16 * 1024 * 1024

_head = Struct(">BHL")
_size = Struct(">Q").unpack_from


class MalformedFrameError(Exception):
    """Raised when the bytes from the broker are not AMQP frames in an order that AMQP allows."""


class Tap:
    """The frames of one connection, parsed; pure: bytes in, bytes and deliveries out."""

    def __init__(self) -> None:
        self._rest = b""
        self._watches: dict[int, _Watch] = {}

    def watch(self, channel: int, consumer_tag: str, sink: Sink) -> None:
        """Take this consumer's deliveries from now on."""
        self._watches[channel] = _Watch(channel, consumer_tag, sink)

    def unwatch(self, channel: int, sink: Sink) -> None:
        """Stop watching a closed channel; if another consumer has its number by now, that one is still watched."""
        watch = self._watches.get(channel)
        if watch and watch.sink == sink:
            del self._watches[channel]

    def feed(self, data: bytes) -> bytes:
        """Take our deliveries out of the next bytes and return the other frames, whole ones only.

        Raises:
            MalformedFrameError: the connection cannot be used any more.
        """
        buffer = self._rest + data if self._rest else data
        end, at = len(buffer), 0
        passed: list[bytes] = []
        watches = self._watches
        while end - at > HEAD:
            kind, channel, size = _head.unpack_from(buffer, at)
            start = at + HEAD
            stop = start + size
            if stop >= end:
                if size > LARGEST_FRAME:
                    raise MalformedFrameError(f"a frame of {size} bytes")
                break
            if buffer[stop] != FRAME_END:
                raise MalformedFrameError(f"a frame ends with {buffer[stop]:#x}")
            watch = watches.get(channel)
            if watch is not None:
                if whole := watch.take_whole(buffer, at):
                    at = whole
                    continue
                if watch.take(kind, buffer, start, stop):
                    at = stop + 1
                    continue
            passed.append(_passed(kind, channel, buffer, at, stop))
            at = stop + 1
        self._rest = buffer[at:] if at < end else b""
        for watch in tuple(watches.values()):
            watch.hand_over()
        return b"".join(passed)


def _passed(kind: int, channel: int, buffer: bytes, at: int, stop: int) -> bytes:
    """Return the frame from ``at`` to ``stop`` as aiormq gets it."""
    if kind not in (METHOD, HEADER):
        return buffer[at : stop + 1]
    try:
        return guarded(kind, channel, buffer[at + HEAD : stop])
    except IndexError as error:
        raise MalformedFrameError("a method is too short") from error


class _Shape(NamedTuple):
    """A delivery's three frames by their lengths: one call takes them apart, three comparisons identify them."""

    #: Takes a delivery apart: ``before``, its method's arguments, ``between``, the body's length, its properties,
    #: ``after``, the length of the body's first frame.
    unpack: Callable[[bytes, int], tuple[bytes, bytes, bytes, int, bytes, bytes, int]]
    #: Bytes before the body.
    size: int
    #: The method's beginning, up to the consumer tag.
    before: bytes
    #: The method's end and the header's beginning.
    between: bytes
    #: The header's end and the body's beginning.
    after: bytes

    @classmethod
    def of(cls, channel: int, begins: bytes, arguments: int, header: int) -> "_Shape":
        before = _head.pack(METHOD, channel, len(begins) + arguments) + begins
        between = bytes([FRAME_END]) + _head.pack(HEADER, channel, header) + CONTENT
        after = bytes([FRAME_END]) + pack(">BH", BODY, channel)
        layout = Struct(f">{len(before)}s{arguments}s{len(between)}sQ{header - FLAGS_AT}s{len(after)}sL")
        return cls(layout.unpack_from, layout.size, before, between, after)


class _Watch:
    """One consumer's deliveries, put together from its channel's frames."""

    def __init__(self, channel: int, consumer_tag: str, sink: Sink) -> None:
        encoded = consumer_tag.encode()
        self.sink = sink
        self._channel = channel
        self._begins = DELIVER + bytes([len(encoded)]) + encoded
        self._shapes: dict[tuple[int, int], _Shape] = {}
        #: The shape of the last whole delivery, and probably of the next one.
        self._shape = self._shape_of(ARGUMENTS, SHORTEST_HEADER)
        self._taken: list[Delivery] = []
        #: The delivery that is being put together: its method and header, and the part of its body that has come.
        self._method: bytes | None = None
        self._header: bytes | None = None
        self._body: list[bytes] = []
        self._missing = 0

    def take_whole(self, buffer: bytes, at: int) -> int:
        """Take the deliveries from `at` on that have three frames each; return the end of the last one, 0 without one.

        This is `take` for the commonest case, at a fifth of its cost. Anything else is left to `take`: a body in
        several frames or none, other frames, the end of what was read.
        """
        if self._method is not None:
            return 0
        shape, taken, end = self._shape, self._taken, 0
        length = len(buffer)
        try:
            while at < length:
                before, method, between, missing, properties, after, size = shape.unpack(buffer, at)
                if before == shape.before and between == shape.between:
                    body_at = at + shape.size
                    stop = body_at + size
                    if after != shape.after or missing != size or buffer[stop] != FRAME_END:
                        return end
                    taken.append(Delivery(method, properties, buffer[body_at:stop]))
                    at = end = stop + 1
                elif (other := self._shape_at(buffer, at)) is not shape:
                    self._shape = shape = other
                else:
                    return end
        except (CutOff, IndexError):  # the rest has not been read yet
            pass
        return end

    def _shape_at(self, buffer: bytes, at: int) -> "_Shape":
        """Return the shape of a delivery whose first two frames have the lengths of those that begin here."""
        size = _head.unpack_from(buffer, at)[2]
        header = _head.unpack_from(buffer, at + HEAD + size + 1)[2]
        return self._shape_of(max(size - len(self._begins), ARGUMENTS), max(header, SHORTEST_HEADER))

    def _shape_of(self, arguments: int, header: int) -> "_Shape":
        if (arguments, header) not in self._shapes:
            if len(self._shapes) == SHAPES:
                self._shapes.clear()
            self._shapes[arguments, header] = _Shape.of(self._channel, self._begins, arguments, header)
        return self._shapes[arguments, header]

    def take(self, kind: int, buffer: bytes, start: int, stop: int) -> bool:
        """Take the frame with this payload if it is ours; return True if it was."""
        if self._method is None:
            if kind != METHOD or not buffer.startswith(self._begins, start):
                return False
            self._method = buffer[start + len(self._begins) : stop]
            if len(self._method) < ARGUMENTS:
                raise MalformedFrameError("a Basic.Deliver is too short")
            return True
        if kind == HEADER and self._header is None:
            if stop - start < SHORTEST_HEADER:
                raise MalformedFrameError("a content header is too short")
            self._header = buffer[start + FLAGS_AT : stop]
            self._missing = _size(buffer, start + 4)[0]
        elif kind == BODY and self._header is not None and stop - start <= self._missing:
            self._missing -= stop - start
            self._body.append(buffer[start:stop])
        else:
            raise MalformedFrameError(f"a frame of type {kind} and {stop - start} bytes within a delivery")
        if not self._missing:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._taken.append(Delivery(self._method, self._header, body))
            self._method, self._header, self._body = None, None, []
        return True

    def hand_over(self) -> None:
        if self._taken:
            taken, self._taken = self._taken, []
            self.sink(taken)
