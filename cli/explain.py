"""`invalidator explain`: what an event would evict."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
from .output import note, print_json, print_table

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.errors import PoisonError
    from invalidator.operate.explain import Explanation


@click.command(
    epilog=f"{FIELDS_HELP}\n"
    "Exit codes: 0 explained, 2 usage or poison, 78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator explain product_updated id=abc-123\n"
    + "  invalidator explain product_updated id=7 before.category_id=3 after.category_id=4\n"
    + '  invalidator explain product_updated id=7 tags:=\'["red", "blue"]\' -o json\n'
    + "  invalidator explain cache_evict keys:='[\"product:7\"]' --config /etc/invalidator/eu.toml"
)
@config_option
@output_option
@click.argument("type")
@fields_argument
def command(config: Path | None, as_json: bool, type: str, fields: list[Field]) -> None:
    """Show what an event would evict: its rule, the keys, the nodes of each key.

    Nothing is sent anywhere. An event that could never be evicted (poison) is explained with its reason: a worker
    hands it to the dead-letter queue.
    """
    from invalidator.broker.topology import Topology
    from invalidator.errors import PoisonError
    from invalidator.operate.explain import explain

    settings = load_settings(config)
    try:
        explanation = explain(settings, type, event_fields(fields))
    except PoisonError as poison:
        _print_poison(poison, Topology.of(settings).dead, as_json=as_json)
        sys.exit(poison.exit_code)
    if as_json:
        print_json(explanation)
    elif not explanation.rule:
        hint = f', did you mean "{explanation.nearest}"?' if explanation.nearest else ""
        note(f'no rule is on "{type}"{hint} A worker acknowledges it and evicts nothing')
    else:
        print_table(_rows(explanation), header=("TEMPLATE", "KEY", "NODES"))
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
        note(f'poison ({poison.reason}): {poison}. A worker hands it to the queue "{dead}"')
