"""The thread in which an application listens."""

import asyncio
import threading

from invalidator.broker.consume.listener import Background


def test_a_cancellation_that_a_library_swallows_is_repeated() -> None:
    running = threading.Event()

    async def listen() -> None:
        try:
            running.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)

    background = Background(listen, name="listening")
    running.wait()
    background.close(within=20)
    assert not background._thread.is_alive()
