"""The option ``--wait`` of the commands that publish: waiting for receipts, and printing them."""

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from invalidator.errors import UnconfirmedError, UnreachableError
from invalidator.settings import Settings

from .output import note, print_table

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.receipt_inbox import Inbox

#: Seconds that ``--wait`` waits by default.
WAIT_SECONDS = 10.0


class WaitingCommand(click.Command):
    """A command that takes ``--wait`` and ``--wait=SECONDS``, but never the next word as seconds, as click would.

    A number behind ``--wait`` could be seconds or a key, so it is refused.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for option, word in pairwise(args[:end]):
            if option == "--wait" and _is_number(word):
                text = f'write --wait={word} for seconds, or put --wait at the end if "{word}" is a key'
                raise click.UsageError(text, ctx)
        options = [f"--wait={WAIT_SECONDS:g}" if arg == "--wait" else arg for arg in args[:end]]
        return super().parse_args(ctx, options + args[end:])


def _is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdecimal()


wait_option = click.option(
    "--wait",
    type=click.FloatRange(min=0, min_open=True),
    metavar="[=SECONDS]",
    help=f"Wait until every cluster has evicted it, by default {WAIT_SECONDS:g} s; then exit with 75.",
)


def inbox_for(settings: Settings, seconds: float | None) -> "Inbox | None":
    """Return the inbox for receipts, or None without ``--wait``. Raises as `expected_clusters`."""
    if seconds is None:
        return None
    from invalidator.operate.receipt_inbox import Inbox

    return Inbox(_clusters(settings), seconds=seconds)


def _clusters(settings: Settings) -> list[str]:
    """Return the clusters to wait for: only this one if no management API is configured and none answers."""
    import asyncio

    from invalidator.operate.management import expected_clusters

    try:
        return asyncio.run(expected_clusters(settings))
    except UnreachableError as error:
        if settings.management.url:
            raise
        note(f"waiting for the cluster {settings.cluster} only: {error}")
        return [settings.cluster]


def answers_as_json(inbox: "Inbox | None") -> dict[str, Any]:
    return {"clusters": inbox.answers, "missing": inbox.missing} if inbox else {}


def print_answers(inbox: "Inbox | None") -> None:
    """Print a line for each worker that answered."""
    if inbox and inbox.answers:
        rows = (
            (one.cluster, one.worker, one.evicted, ", ".join(one.parked) or "-", f"{one.milliseconds:.1f}")
            for one in inbox.answers
        )
        print_table(rows, header=("CLUSTER", "WORKER", "EVICTED", "PARKED FOR", "MILLISECONDS"))


def exit_unless_evicted(inbox: "Inbox | None") -> None:
    """Exit with 75 if a cluster did not answer, or answered that old values may remain."""
    if not inbox:
        return
    if inbox.missing:
        note(f"no receipt from {', '.join(inbox.missing)} in time: see `invalidator status`")
    for one in inbox.answers:
        if one.parked:
            nodes = ", ".join(one.parked)
            note(f"{one.cluster}: {nodes} did not answer; the keys are parked, and old values may remain until it does")
        if one.dead:
            note(f"{one.cluster}: a dead letter ({', '.join(one.dead)}): see `invalidator dead list`")
    if inbox.missing or any(one.parked or one.dead for one in inbox.answers):
        sys.exit(UnconfirmedError.exit_code)
