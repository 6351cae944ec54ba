"""`invalidator relay`: publish what applications put into their outbox, until told to stop."""

import asyncio
from pathlib import Path

import click

from .options import EXAMPLES, config_option


@click.command(
    epilog="Exit codes: 0 told to stop, 77 the broker refuses it, 78 its configuration cannot work, or there is no "
    "such table.\n\n"
    + EXAMPLES
    + "  invalidator relay --create-table\n"
    + "  invalidator relay --config /etc/invalidator/shop.toml\n"
    + "  systemctl start invalidator-relay"
)
@config_option
@click.option("--create-table", is_flag=True, help="Make the table outbox.table where there is none, and end.")
def command(config: Path | None, create_table: bool) -> None:
    """Publish the events of an application's outbox, in order per entity, confirmed, and delete them there.

    The outbox is a table in the application's database (outbox.url), filled inside the application's own transactions:
    what was committed is published at least once, what was rolled back never. Several relays share the work.

    Runs until SIGTERM or SIGINT. An absent database or broker is waited for.
    """
    from invalidator import service, settings
    from invalidator.errors import ConfigurationError

    loaded = settings.load(config)
    service.set_up_logs(level_name=loaded.log.level, form=loaded.log.format)
    try:
        from invalidator.app import relay
        from invalidator.app.outbox import Outbox
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}: pip install 'invalidator[outbox]'") from error

    if create_table:
        Outbox(loaded.outbox.table).create(relay.engine_of(loaded.outbox))
        click.echo(f"the table {loaded.outbox.table} is there")
        return

    async def work(stopping: asyncio.Event) -> None:
        broker = lambda: settings.with_password_read_again(loaded, config)  # noqa: E731
        await relay.Relay(loaded, broker=broker).run(stopping)

    service.run(work)
