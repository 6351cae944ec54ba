"""An auditor in this process, and what it has found."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from invalidator.audit.account import Finding, SavedAccount, account_of
from invalidator.audit.auditor import Auditor
from invalidator.settings import Settings
from tests.integration.shop import eventually


@asynccontextmanager
async def auditing(auditor: Auditor, *, until_ready: bool = True) -> AsyncIterator[Auditor]:
    """Run an auditor: yield once it receives changes."""
    stopping = asyncio.Event()
    running = asyncio.create_task(auditor.run(stopping))
    try:
        await eventually(lambda: running.done() or auditor.health().is_ready or not until_ready)
        yield auditor
    finally:
        stopping.set()
        await running


def findings(settings: Settings) -> dict[str, Finding]:
    """Return the last finding of each key."""
    with closing(SavedAccount(account_of(settings))) as account:
        return {finding.key: finding for finding in reversed(account.findings(10_000))}
