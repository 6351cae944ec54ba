"""`invalidator replay`: evict again what logged events name."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import click

from .options import EXAMPLES, config_option, load_settings, moment, output_option
from .output import note, plural, print_json


@click.command(
    epilog="Exit codes: 0 replayed, 2 usage or no --yes, 69 the broker or the log is not there, 75 no worker has "
    "finished it yet, or the log does not have all of that time, 77 refused, 78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator replay --from 2h                            # count what would be evicted\n"
    + "  invalidator replay --from 2h --yes\n"
    + "  invalidator replay --from 2026-05-17T09:00 --to 2026-05-17T09:30 --yes"
)
@config_option
@output_option
@click.option(
    "--from",
    "since",
    metavar="TIME",
    callback=moment,
    required=True,
    help="The first event's time, or 90m, 2h, 1d ago.",
)
@click.option("--to", "until", metavar="TIME", callback=moment, help="The last event's time; by default now.")
@click.option("--within", default=60.0, show_default=True, help="Seconds to wait for a worker to finish.")
@click.option("--yes", is_flag=True, help="Confirm that their keys are to be evicted again.")
def command(
    config: Path | None, as_json: bool, since: datetime, until: datetime | None, within: float, yes: bool
) -> None:
    """Evict the keys of logged events again, in this cluster, by today's rules.

    For a node that came back with old values, for a new cluster, or after a rule was wrong. It needs the log
    (event_log.enabled). The cluster's workers do it, at most event_log.rate events a second, while new events flow. An
    event whose publisher does not say when it was published is replayed whatever --to says.
    """
    from invalidator.errors import UnconfirmedError
    from invalidator.operate.event_log.replay import asked_for, counted, replayed

    settings, gap = load_settings(config), asked_for(since, until or datetime.now(UTC))
    if not yes:
        found = asyncio.run(counted(settings, since, gap))
        if as_json:
            print_json(found)
        else:
            keys = plural(found.keys, "key")
            click.echo(f"would evict {keys} of {plural(found.events, 'event')}; dead letters among them: {found.dead}")
        if found.log_begins:
            note(f"the log begins at {found.log_begins:%Y-%m-%dT%H:%M:%SZ}: it has nothing from before")
        raise click.UsageError("nothing was replayed: give --yes to evict these keys again")
    healing = asyncio.run(replayed(settings, gap, within=within)).healing
    assert healing
    if as_json:
        print_json(healing)
    else:
        click.echo(f"{plural(healing.events, 'event')} replayed in {healing.seconds:.1f} s")
    if healing.log_begins:
        note(f"the log begins at {healing.log_begins:%Y-%m-%dT%H:%M:%SZ}: it has nothing from before")
    elif not healing.is_whole:
        note(str(healing))
    if not healing.is_whole:
        raise SystemExit(UnconfirmedError.exit_code)
