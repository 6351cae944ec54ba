"""`invalidator follow`: publish what the database's own log says was changed, until stopped."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import EXAMPLES, config_option, load_settings
from .output import echo, note, printable

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.settings import Settings


@click.command(
    epilog="Exit codes: 0 stopped, or done; 69 no database; 77 database or broker refuses the user; 78 its "
    "configuration cannot work, or there is no such slot.\n\n"
    + EXAMPLES
    + "  invalidator follow --create\n"
    + "  invalidator follow --dry-run\n"
    + "  systemctl start invalidator-follow"
)
@config_option
@click.option("--create", "action", flag_value="create", help="Make the slot and the publication, and end.")
@click.option("--drop", "action", flag_value="drop", help="Drop the slot and the publication, and end.")
@click.option("--dry-run", "action", flag_value="dry-run", help="Print the events instead; the slot does not move.")
def command(config: Path | None, action: str | None) -> None:
    """Publish an event for each row that a committed transaction changed, written by an application, psql or a trigger.

    It reads PostgreSQL's log through a replication slot (follow.slot) for the tables that rules name, as in
    on = "changed:public.products". An event is published once new reads can see the change, and the slot moves on once
    RabbitMQ has confirmed it: what was committed is published at least once, what was rolled back never.

    Runs until SIGTERM or SIGINT. SIGHUP reads the configuration again. While database or broker are away, it waits.
    """
    from invalidator.errors import ConfigurationError
    from invalidator.settings.schema import FOLLOWER_PORT

    from .serving import serve

    try:
        from invalidator.follow.follower import Follower
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}: pip install 'invalidator[outbox]'") from error

    if action is None:
        serve(config, Follower, port=FOLLOWER_PORT)
        return
    loaded = load_settings(config)
    if action == "dry-run":
        with suppress(KeyboardInterrupt):
            asyncio.run(_dry_run(loaded))
    else:
        asyncio.run(_create(loaded) if action == "create" else _drop(loaded))


async def _create(settings: "Settings") -> None:
    from invalidator.follow import setup

    await setup.create(settings)
    follow, named = settings.follow, ", ".join(setup.tables(settings)) or "no table"
    echo(f"slot {follow.slot} and publication {follow.publication} exist, for: {named}")


async def _drop(settings: "Settings") -> None:
    from invalidator.follow import setup

    await setup.drop(settings)
    echo(f"slot {settings.follow.slot} and publication {settings.follow.publication} are gone")


async def _dry_run(settings: "Settings") -> None:
    from invalidator.follow.follower import events

    note("events that follow would publish, from the slot's position on; Ctrl-C ends it")
    async for message in events(settings):
        echo(f"{message.time:%H:%M:%S.%f}"[:-3] + f"  {printable(message.type)}  {printable(message.body.decode())}")
