"""`invalidator audit`: an auditor put together from its settings, until it is stopped.

rows in the database's log ─┐
events on the exchange ─────┴> changes ─> tracker ─> results
announcements ─────────────────────> investigation ─^
"""

import asyncio
from collections.abc import Callable

from invalidator.app.near.listener import listen as listen_to_announcements
from invalidator.assemble import rules_of
from invalidator.audit.account import account_of
from invalidator.audit.budget import Budget
from invalidator.audit.changes.feeds import Feeds
from invalidator.audit.changes.sampling import Sample
from invalidator.audit.investigation import Investigation
from invalidator.audit.nodes import AuditedNodes
from invalidator.audit.results import Results
from invalidator.audit.source_reader import SourceReader
from invalidator.audit.tracker import Tracker
from invalidator.audit.truth import Source
from invalidator.errors import ConfigurationError
from invalidator.events.rules import Rules
from invalidator.memcached.access import Access
from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.settings import Settings

#: Seconds in which each named key is inspected once, if the limit of reads allows it.
ROUND_SECONDS = 10.0
#: Items removed in a second.
REPAIRS = 10.0
#: Seconds between two measurements of the feed, for the coverage.
TICK_SECONDS = 0.5
#: Seconds without a turn of the event loop after which events may have been dropped: well below `feed.MAX_AGE`.
STALLED_SECONDS = 10.0

log = Log(__name__)


class Auditor:
    """One process of one cluster; a second one would need an account of its own."""

    def __init__(self, settings: Settings, source: Source, *, read: Callable[[], Settings] | None = None) -> None:
        """Open the account; connect nothing yet.

        ``read`` is called before every connection, so that a changed password is read again.

        Raises:
            ConfigurationError: the settings cannot work.
        """
        audit = settings.audit
        rules = rules_of(settings)
        _check_keys(audit.keys, rules)
        delays = _rising(audit.delays)
        self._settings = settings
        self._read = read or (lambda: settings)
        self._source = SourceReader(source)
        self._nodes = AuditedNodes(
            settings.nodes(),
            lambda: Access.of(self._read().memcached),
            prefix=settings.memcached.prefix,
            deadline=settings.memcached.deadline,
        )
        sample = Sample(audit.share, audit.keys)
        self._feeds = Feeds(settings, rules, sample, self, read=self._read)
        self._investigation = Investigation(settings, sample, self._feeds, read=self._read)
        self._results = Results(account_of(settings), delays, fed_by=str(self._feeds))
        self._tracker = Tracker(
            self._nodes,
            self._source.read_of,
            self._investigation.reason,
            self._results,
            reads=Budget(audit.reads, least=1 + len(delays)),
            commands=Budget(audit.commands, least=2 * len(self._nodes.labels)),
            repairs=Budget(REPAIRS) if audit.repair else None,
            delays=delays,
            catch_up=self._feeds.catch_up,
        )
        #: Set as soon as it runs: an auditor that waits for the broker has started.
        self.tried = asyncio.Event()

    def published(self, key: str) -> None:
        self._investigation.published(key)

    def changed(self, key: str) -> None:
        self._tracker.changed(key)

    def committed(self, key: str, commit: int) -> None:
        self._investigation.committed(key, commit)
        self._tracker.changed(key)

    def lost(self) -> None:
        self._tracker.lost()

    async def run(self, stopping: asyncio.Event) -> None:
        """Audit until ``stopping`` is set, and wait for an absent broker or database."""
        self.tried.set()
        cluster, broker = self._settings.cluster, lambda: self._read().broker
        log.info("auditing", changes=str(self._feeds))
        work = (
            self._feeds.listen(),
            listen_to_announcements(broker, cluster, self._investigation, role="audit"),
            self._tracker.run(),
            self._inspect_named_keys(),
            self._measure_listening(),
            self._results.keep(),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [tasks.create_task(part) for part in work]
                await stopping.wait()
                for part in parts:
                    part.cancel()
        finally:
            self._source.close()
            self._nodes.close()
            self._results.close()

    def health(self) -> Health:
        """Return the auditor's health, for systemd and over HTTP."""
        waits_for = self._feeds.waits_for
        state = f"waiting for {waits_for}" if waits_for else f"listening ({self._feeds})"
        return Health(is_live=True, is_ready=not waits_for, status=f"{state}; checking {len(self._tracker)} keys")

    async def _inspect_named_keys(self) -> None:
        audit = self._settings.audit
        if not audit.keys:
            return
        # Two reads a key, so half of the limit is left to changes.
        seconds = max(ROUND_SECONDS / len(audit.keys), 4 / audit.reads)
        while True:
            for key in audit.keys:
                if not self._feeds.waits_for:
                    await self._tracker.inspect(key)
                await asyncio.sleep(seconds)

    async def _measure_listening(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            seconds = loop.time() - began
            began += seconds
            if seconds > STALLED_SECONDS:
                log.warning("this process did not run; checks under way are given up", seconds=round(seconds))
                self.lost()
            listened = not self._feeds.waits_for and seconds <= STALLED_SECONDS
            self._results.listened(seconds if listened else 0.0)


def _check_keys(keys: list[str], rules: Rules) -> None:
    for key in keys:
        if rules.checked([key]) is None:
            raise ConfigurationError(f'audit.keys: "{key}" cannot be a key of memcached')


def _rising(delays: list[float]) -> list[float]:
    if delays != sorted(set(delays)):
        raise ConfigurationError("audit.delays: write the seconds in rising order, each once")
    return delays
