"""A timeline as lines of text. Pure: what is drawn was passed in."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.text import Text

from ops.cli.text import line, took
from projections.timeline_rows import Interval, Lane, TimelinePage

SIGNS = {
    "dependency": (".", "dim", "a dependency"),
    "slot": ("-", "yellow", "a slot"),
    "lease": ("#", "green", "work"),
    "verify": ("=", "blue", "tests"),
    "timer": ("~", "yellow", "a timer"),
    "ask": ("?", "bold magenta", "a person"),
}
LONGEST_NAME = 32
LEAST_BAR = 20


def gantt(page: TimelinePage, now: float, width: int) -> list[Text]:
    """The head, an axis and a bar for each task, branches under what they mend, and what the signs mean.

    A sign stands for what most of its time was; `now` is where what goes on ends.
    """
    flow = page.workflow
    end = max(now if flow.ended is None else flow.ended, flow.until)
    rows = [(f"{'  ' * depth}{'└ ' if depth else ''}{line(lane.task)}", lane) for lane, depth in _tree(page.tasks)]
    names = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name, _ in rows]
    tails = [_tail(lane, end) for _, lane in rows]
    first = max((len(name) for name in names), default=0)
    cells = max(LEAST_BAR, width - first - 4 - max((len(tail) for tail in tails), default=0))
    scale = (end - flow.began) / cells or 1e-6

    title = Text.assemble((flow.workflow, "bold"), f"  {line(flow.title)}" if flow.title else "")
    title.append(f"  {flow.outcome or 'under way'}  {took(end - flow.began)}", style="dim")
    begun, over = (f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}" for at in (flow.began, end))
    axis = Text(f"{' ' * first}  {begun}{over.rjust(cells - len(begun))}", style="dim")
    lines = [title, Text(), axis]
    if flow.pauses:
        paused = [Interval("ask", pause.began, pause.ended) for pause in flow.pauses]
        lines.append(Text(f"{'paused'.ljust(first)}  ").append(_bar(paused, flow.began, end, scale, cells, "|")))
    for name, tail, (_, lane) in zip(names, tails, rows, strict=True):
        text = Text(f"{name.ljust(first)}  ").append(_bar(lane.intervals, flow.began, end, scale, cells))
        lines.append(text.append(f"  {tail}", style="dim"))
    legend = "   ".join(f"{sign} {means}" for sign, _, means in SIGNS.values())
    lines += [Text(), Text(f"{' ' * first}  {legend}", style="dim")]
    for text in lines:
        text.rstrip()
    return lines


def _bar(
    intervals: Sequence[Interval], start: float, end: float, scale: float, cells: int, sign: str | None = None
) -> Text:
    shares: list[dict[str, float]] = [{} for _ in range(cells)]
    for interval in intervals:
        kind = "verify" if interval.purpose == "verify" and interval.kind == "lease" else interval.kind
        begin, close = (interval.began - start) / scale, ((interval.ended or end) - start) / scale
        for cell in range(max(0, int(begin)), min(cells, int(close) + 1)):
            share = min(close, cell + 1) - max(begin, cell)
            if share > 0:
                shares[cell][kind] = shares[cell].get(kind, 0.0) + share
    text = Text()
    for share_of in shares:
        if share_of:
            shown, style, _ = SIGNS[max(share_of, key=lambda kind: share_of[kind])]
            text.append(sign or shown, style=style)
        else:
            text.append(" ")
    return text


def _tail(lane: Lane, end: float) -> str:
    """How it ended, how often it was tried if that was not once, and how long it took."""
    work = [attempt for attempt in lane.attempts if attempt.purpose == "work"]
    waits = lane.intervals[-1].kind if lane.intervals and lane.ended is None else None
    said = lane.outcome or (f"waits: {SIGNS[waits][2]}" if waits and waits != "lease" else "at work")
    tried = f" {len(work)}x" if len(work) > 1 else ""
    return f"{said}{tried} {took((lane.ended or end) - lane.began)}"


def _tree(lanes: Sequence[Lane]) -> Iterator[tuple[Lane, int]]:
    """Each task with its depth, what belongs to it right after it."""
    known = {lane.task for lane in lanes}
    parts: dict[str | None, list[Lane]] = {}
    for lane in lanes:
        parts.setdefault(lane.parent if lane.parent in known else None, []).append(lane)
    waiting = [(lane, 0) for lane in reversed(parts.get(None, []))]
    while waiting:
        lane, depth = waiting.pop()
        yield lane, depth
        waiting += [(part, depth + 1) for part in reversed(parts.get(lane.task, []))]
