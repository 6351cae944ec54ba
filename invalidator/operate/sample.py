"""The rules of this configuration against live events, before they go live; nothing is evicted."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from difflib import get_close_matches

from invalidator.errors import ConfigurationError, UnconfirmedError
from invalidator.operate.findings import Finding, ok, wrong
from invalidator.operate.live import Reader, Seen, passing
from invalidator.settings import Settings


async def sample(settings: Settings, count: int, *, within: float, seen_one: Callable[[], None]) -> list[Finding]:
    """What the rules make of the next events, so many or those that come in time. Raises as `passing`."""
    reader, taken = Reader(settings), list[Seen]()
    try:
        async with asyncio.timeout(within), aclosing(passing(settings)) as deliveries:
            async for delivery in deliveries:
                if seen := reader.read(delivery):
                    taken.append(seen)
                    seen_one()
                if len(taken) == count:
                    break
    except TimeoutError:
        pass
    if not taken:
        mend = "wait longer (--within), or publish one: invalidator publish"
        return [wrong("sample", f"no event came within {within:g} s", mend, meaning=UnconfirmedError)]
    return list(judged(taken, known=[rule.on for rule in settings.rule]))


def judged(taken: Iterable[Seen], *, known: Collection[str]) -> Iterator[Finding]:
    """One finding for each type of event, and for each reason for which it would be a dead letter; pure."""
    events, keys = Counter[str](), Counter[str]()
    poison: dict[tuple[str, str], list[str]] = {}
    for seen in taken:
        events[seen.of] += 1
        keys[seen.of] += len(seen.keys)
        if seen.reason:
            poison.setdefault((seen.of, seen.reason), []).append(seen.detail)
    for (kind, reason), details in poison.items():
        text = f"{kind or 'without a type'}: {len(details)} of {events[kind]} would be dead letters ({reason})"
        yield wrong("sample", text, f"correct the rule or the publisher: {details[0]}", meaning=ConfigurationError)
        events[kind] -= len(details)
    for kind, good in events.most_common():
        if good and not keys[kind]:
            nearest = get_close_matches(kind, known, n=1)
            mend = f'did a rule mean "{nearest[0]}"?' if nearest else "write a [[rule]] if they matter to the cache"
            yield Finding("note", "sample", f"{kind}: events {good}, which evict nothing", mend)
        elif good:
            yield ok("sample", f"{kind}: events {good}, keys {keys[kind]}")
