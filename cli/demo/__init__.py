"""`invalidator demo`: the whole story on an example shop, with figures."""

import signal
import sys

import click

from ..options import EXAMPLES

NO_SERVERS = "no servers given: ./dev demo starts private ones, and --embedded needs none"


@click.command(
    epilog=EXAMPLES
    + "  ./dev demo --stay              the whole story on private servers\n"
    + "  invalidator demo --embedded    acts 1 to 3 without any server\n"
    + "  invalidator demo --broker amqp://guest:guest@127.0.0.1/ --eu 127.0.0.1:11211 --us 127.0.0.1:11212"
)
@click.option("--embedded", is_flag=True, help="Play acts 1 to 3 in this process, without any server.")
@click.option("--broker", metavar="URL", help="RabbitMQ, for example amqp://guest:guest@127.0.0.1:5672/.")
@click.option("--management", metavar="URL", help="Its management UI, for example http://127.0.0.1:15672.")
@click.option("--eu", metavar="HOST:PORT,…", help="memcached nodes of the first cluster.")
@click.option("--us", metavar="HOST:PORT,…", help="memcached nodes of the second cluster.")
@click.option("--stay", is_flag=True, help="Keep workers and servers running afterwards, until Ctrl-C.")
@click.option(
    "--polls",
    type=click.IntRange(1, 60),
    default=4,
    show_default=True,
    help="Seconds over which prices change in act 2.",
)
@click.option(
    "--updates", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Price changes in acts 3 and 4."
)
def command(
    embedded: bool,
    broker: str | None,
    management: str | None,
    eu: str | None,
    us: str | None,
    stay: bool,
    polls: int,
    updates: int,
) -> None:
    """Tell the whole story on an example shop, with figures.

    A price changes in the database. (1) The caches do not learn of it. (2) They poll the database every second. (3) The
    service publishes to a bus in its own process. (4) It publishes to RabbitMQ, and workers evict every copy from two
    memcached clusters. (5) A slow reader writes the old price back, which LookAsideCache prevents. (6) Hot products are
    read again before customers ask. (7) A client stores an old price, and an auditor finds, explains and removes it.
    All figures are measured while you watch.
    """
    from .story import Servers, perform, perform_embedded

    if embedded:
        if broker or management or eu or us or stay:
            raise click.UsageError("--embedded uses no server: remove the server options and --stay, or run ./dev demo")
        perform_embedded(polls=polls, updates=updates)
        return
    if not (broker and eu and us):
        missing = [name for name, value in (("--broker", broker), ("--eu", eu), ("--us", us)) if not value]
        raise click.UsageError(NO_SERVERS if len(missing) == 3 else f"{', '.join(missing)} is missing: see --help")
    _refuse_ambiguous(broker)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the workers are stopped too
    clusters = {"eu": _addresses(eu), "us": _addresses(us)}
    perform(Servers(broker, management, clusters), polls=polls, updates=updates, stay=stay)


def _refuse_ambiguous(broker: str) -> None:
    from invalidator.errors import ConfigurationError
    from invalidator.settings import BrokerUrl

    try:
        BrokerUrl.parse(broker)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--broker") from error


def _addresses(text: str) -> list[tuple[str, int]]:
    from invalidator.settings import split_address

    return [split_address(address.strip(), default_port=11211) for address in text.split(",")]
