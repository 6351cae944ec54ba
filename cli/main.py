"""The group of commands, each imported only when it is called, so that `invalidator --help` is quick."""

import importlib
import sys
from typing import Any

import click

from invalidator.errors import InvalidatorError

from .output import note, output_guarded
from .suggestions import Suggesting

#: Command -> (module of this package, one line for the list).
COMMANDS = {
    "worker": ("worker", "Consume product updates and evict their keys from this cluster's nodes."),
    "warm": ("warm", "Read hot keys again as soon as they are evicted."),
    "audit": ("audit", "Measure how often the caches are wrong, and remove what stays stale."),
    "relay": ("relay", "Publish what applications commit to an outbox in their own database."),
    "follow": ("follow", "Publish what the database's own log says was changed."),
    "publish": ("publish", "Publish test events to the fanout exchange, confirmed."),
    "evict": ("evict", "Evict keys by hand, from every cluster or only from these nodes."),
    "flush": ("flush", "Empty nodes, one by one: the fix after a gap."),
    "replay": ("replay", "Evict again what logged events name."),
    "history": ("history", "Show which events touched a key, and whether they were evicted."),
    "explain": ("explain", "Show what an event would evict, or where a key is."),
    "status": ("status", "Show the state of every cluster, and every fault with its fix."),
    "check": ("check", "Check configuration, broker, queues and nodes, and name the fixes."),
    "dead": ("dead", "List, show, replay or drop events that could not be evicted."),
    "tail": ("tail", "Show live events and announcements."),
    "topology": ("topology", "Declare, verify or export exchanges, queues and bindings."),
    "completion": ("completion", "Print the script with which a shell completes commands."),
    "demo": ("demo", "Tell the whole story on an example shop, with figures."),
}


class Commands(Suggesting):
    """The group that imports a command's module by name, and turns our errors into one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{COMMANDS[name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with output_guarded():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InvalidatorError as error:
            note(str(error))
            sys.exit(error.exit_code)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 69 broker or node unreachable or no queue bound, "
    "75 partly done, try again, 77 refused, 78 configuration.",
)
@click.version_option(package_name="invalidator")
def main() -> None:
    """Evict stale keys from memcached when RabbitMQ delivers product updates. Nothing lost, nothing stale."""


if __name__ == "__main__":
    main()
