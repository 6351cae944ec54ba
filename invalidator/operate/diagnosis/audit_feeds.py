"""The sources of an auditor's changes, as it wrote them into its account."""

from contextlib import closing

from invalidator.audit.account import AccountError, SavedAccount, account_of
from invalidator.audit.changes.feeds import EVENTS_ONLY
from invalidator.operate.findings import Finding, ok
from invalidator.settings import Settings


def audit_feed_findings(settings: Settings) -> list[Finding]:
    """Return the finding about where changes come from; of a cluster without an account here, no finding."""
    path = account_of(settings)
    if not path.exists():
        return []
    try:
        with closing(SavedAccount(path)) as account:
            source = account.fed_by()
    except AccountError:
        return []  # the findings about the number report it
    if source != EVENTS_ONLY:
        return [ok("audit", f"changes come from {source}")]
    text = f"changes come from {source}: a change that was never published is not seen"
    return [Finding("note", "audit", text, "follow.url: PostgreSQL's log shows it")]
