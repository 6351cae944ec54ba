"""A worker's parts end when they are cancelled, even if a library has lost the first cancellation."""

import asyncio

from invalidator.worker.worker import end


async def test_a_lost_cancellation_is_repeated() -> None:
    forgotten = 0

    async def forgetful() -> None:
        nonlocal forgotten
        while forgotten < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                forgotten += 1
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(forgetful()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0)
    await end(tasks)
    assert (2, True) == (forgotten, tasks[0].cancelled())
