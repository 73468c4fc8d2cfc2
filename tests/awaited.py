"""Figures that rules and dashboards ask for and that Cairn does not tell yet. Whoever makes one of them tells it takes
its name from here: `tests/ops/test_prometheus.py` fails until that is done."""

AWAITED = frozenset({"cairn_breakers", "cairn_webhook_deliveries_total"})
