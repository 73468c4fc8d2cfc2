"""What is drawn of a timeline."""

from ops.cli.gantt import gantt
from projections.timeline_rows import Attempt, Chart, Interval, Lane, Pause, TimelinePage

NOW = 1_000.0


def lane(number: int, task: str, *intervals: Interval, **more: object) -> Lane:
    end = intervals[-1].ended
    given = {"outcome": "completed" if end is not None else None, "ended": end} | more
    return Lane("w", number, task, "", "coder", intervals[0].began, intervals=list(intervals), **given)  # type: ignore[arg-type]


def drawn(chart: Chart, *lanes: Lane, width: int = 80) -> list[str]:
    return [text.plain for text in gantt(TimelinePage(chart, list(lanes)), NOW, width)]


def test_a_bar_shows_what_a_task_waited_on_and_ends_with_it() -> None:
    chart = Chart("w", "A study", 900.0, 3, 1_000.0, 9, 900.0)
    lines = drawn(
        chart,
        lane(1, "a", Interval("slot", 900.0, 910.0), Interval("lease", 910.0, 950.0),
             attempts=[Attempt("a/1", 1, "coder", 900.0), Attempt("a/2", 2, "coder", 930.0)]),
        lane(2, "b", Interval("dependency", 900.0, 950.0), Interval("ask", 950.0)),
        lane(3, "a.fix1", Interval("lease", 910.0, 920.0, purpose="verify"), parent="a", depth=1),
    )  # fmt: skip
    assert lines[0] == "w  A study  under way  1 m 40 s"
    begun, over = lines[2].split()
    assert (begun, over) == ("00:15:00", "00:16:40")
    bars = {line[:10].strip(): line[12:] for line in lines[3:6]}
    assert list(bars) == ["a", "└ a.fix1", "b"]
    cells = len(lines[2]) - 12
    first = bars["a"][:cells]
    assert first.strip("-# ") == "" and first.count("#") == round(cells * 0.4)
    assert bars["a"].endswith("completed 2x 50 s") and bars["b"].endswith("waits: a person 1 m 40 s")
    assert bars["b"][:cells].startswith(".") and bars["b"][:cells].endswith("?")
    tested = bars["└ a.fix1"][:cells].strip()
    assert tested.strip("=") == "" and len(tested) - round(cells / 10) in (0, 1)
    assert all(len(line) <= 80 for line in lines[:-1])


def test_a_pause_has_a_line_of_its_own_and_a_workflow_of_no_time_can_be_drawn() -> None:
    chart = Chart("w", "", 900.0, 1, 900.0, 9, None, 900.0, "cancelled", [Pause(900.0, 900.0, "pat")])
    lines = drawn(chart, lane(1, "x" * 90, Interval("slot", 900.0, 900.0)))
    assert lines[0] == "w  cancelled  0.0 s"
    assert lines[3].startswith("paused") and lines[4].startswith("x" * 31 + "…")
