"""The limits in time that the view keeps are those that the rules fold."""

from random import Random

from histories import history, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.clock import Clock
from domain.state import CLOSED, Workflow, evolve
from projections.limits import Limits


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 120))
def test_after_every_decision_the_limits_are_those_of_the_rules(seed: int, steps: int) -> None:
    limits, clocks, states, position = Limits(), dict[str, Clock](), dict[str, Workflow](), 0
    for name, events in history(Random(seed), 3, steps):
        state = states.setdefault(name, Workflow())
        for event in events:
            position += 1
            evolve(state, event)
            limits._fold(clocks, name, recorded(event, position))
        open_tasks = [
            (workflow, task)
            for workflow, its in states.items()
            for task in its.tasks.values()
            if task.status not in CLOSED
        ]
        due = {(workflow, task.spec.id): task.expires for workflow, task in open_tasks if task.expires is not None}
        assert limits._tasks == due, f"seed {seed}, after {events}"
        for workflow, clock in clocks.items():
            assert clock == states[workflow].clock, f"seed {seed}, after {events}"
