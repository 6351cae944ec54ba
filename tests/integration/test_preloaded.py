"""A command that is forked from a preloaded process does what the installed one does."""

import asyncio
import re

import pytest
from invalidator_cli.main import COMMANDS

from tests.integration.shell import Shell
from tests.integration.shop import changed

#: A way to call each command that ends by itself, and its exit code.
CALLS: list[tuple[str, int]] = [
    ("worker --config /nowhere.toml", 78),
    ("warm", 78),
    ("audit", 78),
    ("relay", 78),
    ("publish product_updated id=7", 0),
    ("evict --direct product:7", 0),
    ("flush --yes --pause 0", 0),
    ("explain product_updated id=7", 0),
    ("follow --create", 78),
    ("history product:7", 69),
    ("replay --from 1h", 69),
    ("status", 69),
    ("check -o json", 69),
    ("dead list", 0),
    ("tail --limit 0", 2),
    ("topology verify", 0),
    ("completion bash", 0),
    ("demo --broker amqp://127.0.0.1:1/", 2),
]


@pytest.mark.parametrize(("call", "code"), CALLS)
async def test_every_command_does_the_same_as_the_installed_one(call: str, code: int, shell: Shell) -> None:
    await shell.declare()
    installed, forked = await shell.run_installed(*call.split()), await shell.run(*call.split())
    assert (code, code) == (installed.returncode, forked.returncode), installed.stderr + forked.stderr
    # Two calls differ in what they measured.
    said = [re.sub(r"[\d.]+", "N", done.stdout + done.stderr) for done in (installed, forked)]
    assert said[0] == said[1]


def test_no_command_is_left_out() -> None:
    assert set(COMMANDS) == {call.split()[0] for call, _ in CALLS}


async def test_bytes_of_standard_input_arrive(shell: Shell) -> None:
    await shell.declare()
    lines = b'{"type": "product_updated", "id": 1}\n' * 5000
    done = await shell.run("publish", "--from-file", "-", "-o", "json", stdin=lines)
    assert (0, True) == (done.returncode, '"published": 5000' in done.stdout)


async def test_a_command_ends_with_the_call_that_waits_for_it(shell: Shell) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        while await reader.read(100):
            pass
        gone.set()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as node:
        address = "{}:{}".format(*node.sockets[0].getsockname())
        shell.configure(changed(changed(shell.settings, "ring", nodes={"c1": address}), "memcached", deadline=3600.0))
        evicting = asyncio.create_task(shell.run("evict", "--direct", "product:1"))
        await arrived.wait()
        evicting.cancel()
        await gone.wait()
