"""A workflow as lines of text: the tree of its tasks, and what is told of each. Pure: what is drawn was passed in."""

from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

from ops.cli.text import between, commit, line, plural
from projections.board_rows import BoardDetail, BoardTask

MARKS = {
    "pending": ("·", "dim"),
    "dispatched": ("○", "cyan"),
    "running": ("▶", "cyan"),
    "verifying": ("◆", "blue"),
    "retrying": ("↻", "yellow"),
    "branched": ("⑂", "yellow"),
    "waiting": ("?", "bold magenta"),
    "completed": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "cancelled": ("–", "dim"),
    "skipped": ("–", "dim"),
    "excused": ("–", "dim"),
}
STATUS_STYLES = {"running": "cyan", "waiting": "bold magenta", "completed": "green", "failed": "bold red",
                 "timed_out": "bold red"}  # fmt: skip
NEWS_WIDTH = 200


def board(detail: BoardDetail, now: datetime, width: int = 0, height: int = 0) -> list[Text]:
    """The head and one line a task, branches under their parents; cut to `width` characters and `height` lines.

    0 means not cut. Of too many tasks those that are open and those that closed last stay.
    """
    tree = list(_tree(detail))
    shown, hidden = _most_telling(tree, height - 3) if height else (tree, 0)
    names = [f"{'  ' * depth}{'└ ' if depth else ''}{line(task.task)}" for task, depth in shown]
    columns = [
        (name, line(task.role), task.status, str(task.attempt or ""), between(task.started_at, task.ended_at or now))
        for name, (task, _) in zip(names, shown, strict=True)
    ]
    widths = [max((len(row[n]) for row in columns), default=0) for n in range(5)]
    lines = [head(detail, now), Text()]
    for (task, _), row in zip(shown, columns, strict=True):
        mark, style = MARKS[task.status]
        text = Text.assemble((f"{mark} ", style), row[0].ljust(widths[0]))
        text.append("  " + row[1].ljust(widths[1]), style="dim")
        text.append("  " + row[2].ljust(widths[2]), style=style)
        text.append("  " + row[3].rjust(widths[3]) + "  " + row[4].rjust(widths[4]), style="dim")
        text.append("  " + news(task))
        lines.append(text)
    if hidden:
        lines.append(Text(f"  … {plural(hidden, 'more task')}", style="dim"))
    for text in lines:
        text.rstrip()
        if width:
            text.truncate(width, overflow="ellipsis")
    return lines


def head(detail: BoardDetail, now: datetime) -> Text:
    """One line: name, title, status, how far, how long."""
    flow = detail.workflow
    text = Text.assemble((flow.workflow, "bold"), f"  {line(flow.title)}  " if flow.title else "  ")
    text.append(f"{flow.status}{', paused' if flow.paused else ''}", style=STATUS_STYLES.get(flow.status))
    counts = [f"{flow.completed}/{flow.tasks} completed"]
    counts += [f"{flow.progress:.0%}"] if flow.progress != flow.completed / flow.tasks else []
    counts += [f"{flow.failed} failed"] if flow.failed else []
    counts += [plural(flow.branches, "branch", "branches")] if flow.branches else []
    counts += [plural(flow.asks, "ask")] if flow.asks else []
    counts.append(between(flow.started_at, flow.ended_at or now))
    text.append(f"  {' · '.join(counts)}", style="dim")
    return text


def news(task: BoardTask) -> str:
    """The one thing worth knowing of a task now: what it waits for, how it failed, or what was done."""
    if task.status == "failed" and task.failure:
        return line(f"{task.failure.type}: {task.failure.message}", NEWS_WIDTH)
    share = f"{task.progress:.0%} " if task.parts and not task.ended_at else ""
    if task.waiting_on:
        failed = f" (after {task.failure.type})" if task.failure and task.status in ("retrying", "branched") else ""
        return line(f"{share}waits for {task.waiting_on}{failed}", NEWS_WIDTH)
    if task.status == "completed":
        return line(" ".join(part for part in (commit(task.commit), task.summary) if part), NEWS_WIDTH)
    return ""


def _tree(detail: BoardDetail) -> Iterator[tuple[BoardTask, int]]:
    """Each task with its depth below a task of the plan, branches right after their parent."""
    branches: dict[str, list[BoardTask]] = {}
    known = {task.task for task in detail.tasks}
    for task in detail.tasks:
        if task.parent in known and task.parent is not None:
            branches.setdefault(task.parent, []).append(task)
    waiting: list[tuple[BoardTask, int]] = [(task, 0) for task in reversed(detail.tasks) if task.parent not in known]
    while waiting:
        next_one, depth = waiting.pop()
        yield next_one, depth
        waiting += [(branch, depth + 1) for branch in reversed(branches.get(next_one.task, ()))]


def _most_telling(tree: list[tuple[BoardTask, int]], room: int) -> tuple[list[tuple[BoardTask, int]], int]:
    if len(tree) <= max(room, 1):
        return tree, 0
    order = {"pending": 2, "completed": 1, "skipped": 3, "cancelled": 3, "excused": 3}
    ranked = sorted(range(len(tree)), key=lambda n: (order.get(tree[n][0].status, 0), -tree[n][0].updated))
    kept = sorted(ranked[: max(room - 1, 1)])
    return [tree[n] for n in kept], len(tree) - len(kept)
