"""`invalidator relay`: publish the events of an application's outbox, until stopped."""

from pathlib import Path

import click

from .options import EXAMPLES, config_option, load_settings


@click.command(
    epilog="Exit codes: 0 stopped, 77 the broker refuses it, 78 its configuration cannot work, or the table does not "
    "exist.\n\n"
    + EXAMPLES
    + "  invalidator relay --create-table\n"
    + "  invalidator relay --config /etc/invalidator/shop.toml\n"
    + "  systemctl start invalidator-relay"
)
@config_option
@click.option("--create-table", is_flag=True, help="Create the table outbox.table if it does not exist, and exit.")
def command(config: Path | None, create_table: bool) -> None:
    """Publish the events of an application's outbox, confirmed and in order per entity, and delete them there.

    The outbox is a table in the application's database (outbox.url), filled inside the application's own transactions.
    A committed event is published at least once, one that was rolled back never. Several relays share the work.

    Runs until SIGTERM or SIGINT. SIGHUP reads the configuration again. It waits for an absent database or broker.
    """
    from invalidator.errors import ConfigurationError
    from invalidator.settings.schema import RELAY_PORT

    from .serving import serve

    try:
        from invalidator.app.publish.outbox import Outbox
        from invalidator.relay import database, relay
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}: pip install 'invalidator[outbox]'") from error

    if create_table:
        loaded = load_settings(config)
        Outbox(loaded.outbox.table).create(database.engine_of(loaded.outbox))
        click.echo(f"the table {loaded.outbox.table} exists")
        return

    serve(config, relay.Relay, port=RELAY_PORT)
