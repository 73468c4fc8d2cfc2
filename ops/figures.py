"""`docs/metrics.md`: every metric, read off the table that Prometheus is told by."""

from projections.figures import FIGURES, NAMES, Figure, Source

SOURCES: dict[Source, str] = {
    "ledger": "Folded from the events, in the view `metrics`: the same after every restart and every rebuild. Left out "
    "while the view is more than 10,000 events behind, or is built anew.",
    "now": "Asked of Postgres at the scrape, at most every 1.5 seconds.",
    "process": "Of the server that is asked; counters begin with its start.",
}
HEADINGS: dict[Source, str] = {"ledger": "What has happened", "now": "What is so now", "process": "The server itself"}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [
        "# Metrics",
        "This page is generated from the table of metrics (`python -m ops.schemas`); `make check` fails where it differs.",
        "`GET /metrics` gives them in the text format of Prometheus, or as OpenMetrics where that is accepted. It is all "
        "or nothing: while Postgres does not answer a scrape is a 503, and Prometheus has `up == 0`. A label never holds "
        f"an id; the first {NAMES} roles and the first {NAMES} models that the ledger names have series of their own, the "
        "rest is `other`.",
        "How many workflows met their target: `cairn_workflows_within_sla_total / cairn_workflows_total`, exact for any "
        "`sla_seconds`, over the whole past, as the ledger keeps how long each took by the second. Where the setting "
        "changes, the counter and the bucket are those of the new target from the next start on.",
    ]
    for source, about in SOURCES.items():
        figures = [figure for figure in FIGURES.values() if figure.source == source]
        parts += [f"## {HEADINGS[source]}", about, _table(figures)]
    return "\n\n".join(parts) + "\n"


def _table(figures: list[Figure]) -> str:
    rows = [("metric", "type", "unit", "labels", "what it counts"), ("---",) * 5]
    rows += [
        (f"`{one.name}`", one.kind, one.unit, ", ".join(f"`{label}`" for label in one.labels), _about(one))
        for one in figures
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _about(figure: Figure) -> str:
    if not figure.bounds:
        return figure.about
    return f"{figure.about} Buckets: {', '.join(f'{bound:g}' for bound in figure.bounds)}."
