"""A worker's parts end when they are told to, also where a library has forgotten the first cancellation."""

import asyncio

from invalidator.worker.worker import end


async def test_a_cancellation_that_was_forgotten_is_repeated() -> None:
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
