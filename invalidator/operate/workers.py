"""Whether the workers that run place keys and read events as this configuration says, by what they told the broker."""

from collections.abc import AsyncIterator

from invalidator.errors import ConfigurationError, InvalidatorError
from invalidator.operate.findings import Finding, ok, wrong
from invalidator.operate.management import Management
from invalidator.settings import Settings
from invalidator.worker.parts import client_properties

#: What a worker tells -> what it is called here, and what it decides.
DIGESTS = {
    "ring_digest": ("ring", "evicts on other nodes, or by another ring,"),
    "configuration_digest": ("rules", "has other rules, limits, prefix or evict_on"),
}


async def same_everywhere(settings: Settings) -> AsyncIterator[Finding]:
    """One finding for each difference between a running worker and this configuration."""
    try:
        connections = await Management(settings).connections()
    except InvalidatorError:
        return  # `verify` says why the management API does not help
    ours = client_properties(settings)
    workers = [told for told in connections if told.get("cluster") == settings.cluster and "ring_digest" in told]
    # Each has several connections, and one that consumes.
    consuming = [told for told in workers if str(told.get("connection_name")).endswith(" consumes")]
    for digest, (what, differs) in DIGESTS.items():
        strangers = [told["connection_name"] for told in consuming if told.get(digest) != ours[digest]]
        for name in strangers:
            text = f"{name.removesuffix(' consumes')} {differs} than this configuration says"
            mend = "restart it with this configuration, or correct this one: workers of a cluster share one"
            yield wrong(what, text, mend, meaning=ConfigurationError)
        if consuming and not strangers:
            yield ok(what, f"the same in {len(consuming)} running and here")
