"""The views of this program: each runs in every server, and can be rebuilt beside itself."""

from collections.abc import Callable

from projections.board import Board
from projections.event_index import EventIndex
from projections.metrics import Metrics
from projections.project import View
from projections.recovery import Recovery

VIEWS: dict[str, Callable[[], View]] = {
    "board": Board, "recovery": Recovery, "metrics": Metrics, "event_index": EventIndex,
}  # fmt: skip
"""By name; an instance belongs to one projection."""
