"""The views of this program: each runs in every server, and can be rebuilt beside itself."""

from collections.abc import Callable

from projections.board import Board
from projections.event_index import EventIndex
from projections.metrics import Metrics
from projections.project import View
from projections.quality import Standards
from projections.recovery import Recovery
from projections.search import Search
from projections.spend import Spending
from projections.timeline import Timeline

VIEWS: dict[str, Callable[[], View]] = {
    "board": Board, "recovery": Recovery, "timeline": Timeline, "metrics": Metrics, "event_index": EventIndex,
    "search": Search, "spend": Spending, "quality": Standards,
}  # fmt: skip
"""By name; an instance belongs to one projection."""
