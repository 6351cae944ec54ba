"""`invalidator explain`: show what an event would evict, or where a key is."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from .history import history_of, print_history
from .options import (
    EXAMPLES,
    FIELDS_HELP,
    Field,
    config_option,
    event_fields,
    fields_argument,
    load_settings,
    output_option,
)
from .output import note, print_findings, print_json, print_table

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.errors import PoisonError
    from invalidator.operate.explain import Explanation, Trace
    from invalidator.settings import Settings


@click.command(
    epilog=f"{FIELDS_HELP}\n"
    "Exit codes: 0 explained, 2 usage or poison, 75 a node does not say whether it holds the key, 78 configuration, "
    "or the key is on a node where it is not evicted.\n\n"
    + EXAMPLES
    + "  invalidator explain product_updated id=abc-123\n"
    + "  invalidator explain --key product:abc-123\n"
    + "  invalidator explain product_updated id=7 before.category_id=3 after.category_id=4\n"
    + '  invalidator explain product_updated id=7 tags:=\'["red", "blue"]\' -o json\n'
    + "  invalidator explain cache_evict keys:='[\"product:7\"]' --config /etc/invalidator/eu.toml"
)
@config_option
@output_option
@click.option("--key", metavar="KEY", help="Explain this key, as the application names it, instead of an event.")
@click.option("--history", is_flag=True, help="With --key: also show what touched it in the last hour.")
@click.argument("type", required=False)
@fields_argument
def command(
    config: Path | None, as_json: bool, key: str | None, history: bool, type: str | None, fields: list[Field]
) -> None:
    """Show what an event would evict: its rule, its keys, their nodes. With --key, show the nodes that hold a key.

    Nothing is changed. For an event that could never be evicted (poison) the reason is shown: a worker moves it to the
    dead-letter queue. With --key every node is asked, also those where the key should not be, and the templates that
    can make the key are listed.
    """
    if (key is None) == (type is None) or (history and key is None):
        raise click.UsageError("give a TYPE with its fields, or --key, perhaps with --history")
    settings = load_settings(config)
    if key is not None:
        _explain_key(settings, key, history=history, as_json=as_json)
    else:
        assert type is not None
        _explain_event(settings, type, fields, as_json=as_json)


def _explain_key(settings: "Settings", key: str, *, history: bool, as_json: bool) -> None:
    from invalidator.operate.explain import trace, trace_findings
    from invalidator.operate.findings import findings_as_fields, worst

    found = asyncio.run(trace(settings, key))
    findings = list(trace_findings(found))
    past = history_of(settings, key, datetime.now(UTC) - timedelta(hours=1)) if history else None
    if as_json:
        more = {"history": to_builtins(past)} if past else {}
        print_json({**to_builtins(found), "findings": findings_as_fields(findings), **more})
    else:
        _print_trace(found)
        if past:
            click.echo()
            print_history(past)
        if findings:
            click.echo()
            print_findings(findings, as_json=False)
    sys.exit(worst(findings))


def _print_trace(found: "Trace") -> None:
    if found.makers:
        rows = (
            (one.on, one.evict, ", ".join(f"{name}={value}" for name, value in one.fields.items()) or "-")
            for one in found.makers
        )
        print_table(rows, header=("ON", "TEMPLATE", "FIELDS"))
        click.echo()
    nodes = (
        (
            one.node,
            one.address,
            "yes" if one.evicted_here else "no",
            {True: "yes", False: "no", None: "?"}[one.present],
            ("never" if one.ttl is None else f"{one.ttl} s") if one.present else "-",
            "-" if one.idle is None else f"{one.idle} s ago",
        )
        for one in found.nodes
    )
    print_table(nodes, header=("NODE", "ADDRESS", "EVICTED HERE", "PRESENT", "EXPIRES IN", "LAST USED"))


def _explain_event(settings: "Settings", type: str, fields: list[Field], *, as_json: bool) -> None:
    from invalidator.broker.topology import Topology
    from invalidator.errors import PoisonError
    from invalidator.operate.explain import explain

    try:
        explanation = explain(settings, type, event_fields(fields))
    except PoisonError as poison:
        _print_poison(poison, Topology.of(settings).dead, as_json=as_json)
        sys.exit(poison.exit_code)
    if as_json:
        print_json(explanation)
    elif not explanation.rule:
        hint = f', did you mean "{explanation.nearest}"?' if explanation.nearest else "."
        note(f'no rule is on "{type}"{hint} A worker acknowledges such an event and evicts nothing.')
    else:
        print_table(_rows(explanation), header=("TEMPLATE", "KEY", "NODES"))
        click.echo()
        if explanation.again:
            again = ((f"{one.after_seconds:g} s", key.stored_as) for one in explanation.again for key in one.keys)
            print_table(again, header=("ONCE MORE AFTER", "KEY"))
            click.echo()
        print_table(explanation.nodes.items(), header=("NODE", "ADDRESS"))


def _rows(explanation: "Explanation") -> Iterator[tuple[str, str, str]]:
    everywhere = list(explanation.nodes)
    for template in explanation.rule:
        if not template.keys:
            yield template.evict, "-", "no key: an optional field is missing"
        for number, key in enumerate(template.keys):
            nodes = "every node" if key.nodes == everywhere else ", ".join(key.nodes)
            yield template.evict if number == 0 else "", key.stored_as, nodes


def _print_poison(poison: "PoisonError", dead: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"poison": {"reason": poison.reason, "detail": str(poison), "queue": dead}})
    else:
        note(f'poison ({poison.reason}): {poison}. A worker moves it to the queue "{dead}"')
