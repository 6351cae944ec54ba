"""The wires between workers and nodes: a process of TCP proxies that misbehave on request.

    python -m tests.faults.wires c1=127.0.0.1:21211 c2=…

It prints the proxies' addresses as a JSON line and then obeys JSON lines on standard input, like
`{"node": "c1", "act": …}`.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from tests.servers import TcpProxy


class Act(StrEnum):
    VANISH = "vanish"
    REFUSE = "refuse"
    HEAL = "heal"
    RESET = "reset"
    CUT_REPLY = "cut-reply"
    TEAR_REQUEST = "tear-request"
    NOISE = "noise"
    SHIFT = "shift"


class Wire(TcpProxy):
    """A proxy with the faults of a schedule. Each fault replaces the one before."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._resetting: deque[asyncio.Task[None]] = deque(maxlen=10)

    async def obey(self, act: Act, times: int) -> None:
        match act:
            case Act.VANISH:
                self.requests.swallow = self.replies.swallow = True
            case Act.REFUSE:
                await self.refuse()
                await self.reset()
            case Act.HEAL:
                await self._heal()
            case Act.RESET:
                await self.reset()
            case Act.CUT_REPLY:
                self.replies.rewrite = self._so_often(times, self._cut)
            case Act.TEAR_REQUEST:
                self.requests.rewrite = self._so_often(times, self._cut)
            case Act.NOISE:
                self.replies.rewrite = self._so_often(times, _noise)
            case Act.SHIFT:
                self._shift(times)

    async def _heal(self) -> None:
        """End the fault, and all connections with it, since they may have lost bytes."""
        self._behave()
        self.requests.swallow = self.replies.swallow = False
        await self.reset()
        if self._server is None:
            await self.start()

    def _behave(self) -> None:
        self.requests.rewrite = self.replies.rewrite = None

    def _so_often(self, times: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """Change a number of pieces of bytes, then behave."""
        left = times

        def rewrite(data: bytes) -> bytes:
            nonlocal left
            left -= 1
            if left <= 0:
                self._behave()
            return change(data)

        return rewrite

    def _cut(self, data: bytes) -> bytes:
        """Send half of the bytes and then a RST."""
        loop = asyncio.get_running_loop()
        loop.call_later(0.005, lambda: self._resetting.append(loop.create_task(self.reset())))
        return data[: len(data) // 2]

    def _shift(self, times: int) -> None:
        """Drop requests and answer each with the last reply that was seen, like an answer that comes late."""
        last = b""
        lose = self._so_often(times, lambda _: b"")

        def listen(reply: bytes) -> bytes:
            nonlocal last
            last = reply
            return reply

        def answer(request: bytes) -> bytes:
            if not last:
                return request
            self.inject(last)
            return lose(request)

        self.replies.rewrite, self.requests.rewrite = listen, answer


def _noise(data: bytes) -> bytes:
    return b"ERROR\r\n" + data


async def serve(targets: dict[str, str]) -> None:
    wires = {label: Wire(target) for label, target in targets.items()}
    for wire in wires.values():
        await wire.start()
    print(json.dumps({label: wire.address for label, wire in wires.items()}), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        await wires[order["node"]].obey(Act(order["act"]), order.get("times", 1))
    for wire in wires.values():
        await wire.stop()


if __name__ == "__main__":
    asyncio.run(serve(dict(argument.split("=", 1) for argument in sys.argv[1:])))
