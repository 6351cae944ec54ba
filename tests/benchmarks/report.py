"""The report of a run: ratios first, then figures, then the targets that were met."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.benchmarks.programme import (
    CELERY,
    CELERY_THREADS,
    EVERY_NODE,
    FLOOR,
    HUNDRED_KEYS,
    LIMIT,
    OWNER,
    THREE_KEYS,
    Programme,
)
from tests.benchmarks.results import Results, median

NOT_MEASURED = "-"


def report(results: Results, programme: Programme) -> str:
    parts = [_heading(results), _drains(results, programme), _latencies(results, programme)]
    parts += [_others(results), _targets(results, programme)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(results: Results) -> str:
    about = results.about
    return (
        f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the run; "
        f"RabbitMQ {about['rabbitmq']}, Python {about['python']}; medians of {results.rounds} rounds"
    )


def _drains(results: Results, programme: Programme) -> str:
    speed, cost = _of(results, LIMIT.name, "events_per_second"), _of(results, LIMIT.name, "cpu")
    rows = []
    for contestant in programme.drains:
        speeds = results.drain(contestant.name, "events_per_second")
        if not speeds:
            continue
        its_speed, its_cost = _of(results, contestant.name, "events_per_second"), _of(results, contestant.name, "cpu")
        rows.append(
            (
                contestant.name,
                _text(_ratio(its_speed, speed), "{:.2f}"),
                _text(_ratio(its_cost, cost), "{:.1f}"),
                _text(its_speed, "{:,.0f}"),
                f"{min(speeds):,.0f} to {max(speeds):,.0f}",
                _text(its_cost, "{:.2f}"),
                _text(_of(results, contestant.name, "server_cpu"), "{:.2f}"),
                _text(_of(results, contestant.name, "memory"), "{:.0f}"),
                contestant.queue_type,
            )
        )
    header = ("emptying a queue", "speed/limit", "CPU/limit", "events/s", "from to", "CPU s/100k", "servers'", "MB", "")
    return table(header, rows)


def _latencies(results: Results, programme: Programme) -> str:
    rows = []
    for rate in programme.rates:
        floors = {timed.queue_type: timed.name for timed in programme.timed if timed.name.startswith("raw")}
        for timed in programme.timed:
            figures = [median(results.latency(timed.name, rate, what)) for what in ("p50", "p99", "p999")]
            if figures[0] is not None:
                floor = floors.get(timed.queue_type)
                over = results.over(timed.name, floor, rate) if floor else None
                left = sum(results.latency(timed.name, rate, "left"))
                texts = [_text(figure, "{:.2f}") for figure in figures]
                rows.append((f"{timed.name}, {rate}/s", _text(over, "{:+.3f}"), *texts, f"{left:.0f}" if left else ""))
    return table(("publish to evicted, ms", "p50 - floor", "p50", "p99", "p99.9", "never"), rows)


def _others(results: Results) -> str:
    rows = [(f"evict --direct, {situation}", f"{value:.1f} ms") for situation, value in results.direct.items()]
    if results.help:
        rows.append(("invalidator --help", _text(median(results.help), "{:.3f} s")))
    rows += [(f"soak, {what}", f"{value:,.1f}") for what, value in results.soak.items()]
    return table(("besides", ""), rows)


def _targets(results: Results, programme: Programme) -> str:
    rows = []
    for what, figure, limit, at_least in _aims(results, programme):
        if figure is not None:
            met = figure >= limit if at_least else figure <= limit
            sign = ">=" if at_least else "<="
            rows.append((what, f"{figure:,.3g}", f"{sign} {limit:,.3g}", "met" if met else "MISSED"))
    return table(("target", "is", "should be", ""), rows)


def _aims(results: Results, programme: Programme) -> Iterator[tuple[str, float | None, float, bool]]:
    """Return the targets: (name, figure, limit, True if more is better)."""

    def speed(name: str) -> float | None:
        return _of(results, name, "events_per_second")

    def cost(name: str) -> float | None:
        return _of(results, name, "cpu")

    peers = [name for name in (contestant.name for contestant in programme.drains) if _is_peer(name) and speed(name)]
    best = max((speed(name) or 0 for name in peers), default=None)
    yield "CPU, of the raw limit's", _ratio(cost(OWNER.name), cost(LIMIT.name)), 3.5, False
    for celery in (CELERY, CELERY_THREADS):
        yield f"CPU, of {celery.name}'s", _ratio(cost(OWNER.name), cost(celery.name)), 1 / 50, False
    yield "events/s, of the raw limit's", _ratio(speed(OWNER.name), speed(LIMIT.name)), 0.65, True
    yield "events/s, of the best peer's", _ratio(speed(OWNER.name), best), 12, True
    yield "events/s on every node, of those on owners", _ratio(speed(EVERY_NODE.name), speed(OWNER.name)), 0.75, True
    yield "events/s with 3 keys, of those with 1", _ratio(speed(THREE_KEYS.name), speed(OWNER.name)), 0.8, True
    hundred = speed(HUNDRED_KEYS.name)
    yield "keys/s with 100 keys", hundred and hundred * HUNDRED_KEYS.keys, 900_000, True
    for rate in programme.rates:
        yield f"p50 over the floor at {rate}/s, ms", results.over(OWNER.name, FLOOR.name, rate), 0.08, False
    yield "MB resident while draining", _of(results, OWNER.name, "memory"), 45, False
    yield "MB more after ten million events", _growth(results), 2, False
    yield "invalidator --help, s", median(results.help), 0.15, False


def _is_peer(name: str) -> bool:
    return not name.startswith(("raw", "invalidator"))


def _growth(results: Results) -> float | None:
    return results.soak["late"] - results.soak["early"] if results.soak else None


def _of(results: Results, name: str, what: str) -> float | None:
    return median(results.drain(name, what))


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _text(figure: float | None, form: str) -> str:
    return NOT_MEASURED if figure is None else form.format(figure)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with names on the left and figures on the right; nothing without rows."""
    lines = [header, *rows]
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    align: list[Callable[[str, int], str]] = [str.ljust, *([str.rjust] * (len(header) - 1))]
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(align, line, widths, strict=True)).rstrip()
        for line in lines
    )
