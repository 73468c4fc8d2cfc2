"""What tasks and workflows have used: their attempts added up. What is unknown is counted apart, never as 0."""

import msgspec

from projections.board_rows import BoardAttempt, BoardDetail


class Rollup(msgspec.Struct):
    """Of attempts that have ended (runs of tests are none): how many there were, of how many the tokens are known and
    of how many the cost, and the sums of these. `seconds` is that of all runs that have ended, tests too.
    """

    attempts: int = 0
    tokens_known: int = 0
    cost_known: int = 0
    seconds: float = 0.0
    turns: int = 0
    input_total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    cost_usd: float = 0.0

    def add(self, attempt: BoardAttempt) -> None:
        if attempt.outcome is None or (used := attempt.usage) is None:
            return
        self.seconds = round(self.seconds + used.seconds, 3)
        if attempt.purpose != "work":
            return
        self.attempts += 1
        self.tokens_known += used.tokens is not None
        self.cost_known += used.cost_usd is not None
        self.turns += used.turns or 0
        self.input_total += used.input_total or 0
        self.cache_read += used.cache_read or 0
        self.cache_write += used.cache_write or 0
        self.output += used.output or 0
        self.cost_usd = round(self.cost_usd + (used.cost_usd or 0.0), 9)


class Used(msgspec.Struct):
    """`tasks` by name, each with its branches."""

    workflow: Rollup = msgspec.field(default_factory=Rollup)
    tasks: dict[str, Rollup] = {}


def used(detail: BoardDetail) -> Used:
    parents = {task.task: task.parent if task.depth else None for task in detail.tasks}
    found = Used(tasks={name: Rollup() for name in parents})
    for attempt in detail.attempts:
        found.workflow.add(attempt)
        task: str | None = attempt.task
        while task is not None:
            found.tasks[task].add(attempt)
            task = parents[task]
    return found
