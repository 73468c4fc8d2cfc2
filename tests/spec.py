"""Rules as sentences: `given(history).when(command).then(events)` or `.refused(error)`; and the words to tell them in.

A history is made of events, and of commands that are decided and folded on the way. After `then` the events are folded
too, so that a longer story goes on with the next `when`.
"""

from typing import Any, Self

import pytest

from domain.commands import (
    Answer,
    Command,
    ExpireAsk,
    Redispatch,
    ReportAsked,
    ReportCompleted,
    ReportFailed,
    ReportStarted,
    ReportVerified,
    Retry,
    StartWorkflow,
)
from domain.errors import Refused
from domain.events import Event
from domain.failures import FailureType
from domain.outcome import Failure, Receipt, Result
from domain.plan import AcceptanceCriteria, Escalation, Plan, Task, Test
from domain.state import Workflow, replay
from domain.usage import Usage
from domain.workflow import decide

NOW = 1_000_000.0
AT_ONCE = Usage(seconds=0.0)
"""Of an attempt in these stories, in which no time passes and agents do not say what they use."""
NOBODY = Escalation(due_seconds=0.0)
"""Nobody is asked what to do where everything was tried: it has failed."""
TESTS = AcceptanceCriteria((Test("make test", 20.0), Test("make lint", 10.0)))


class An:
    """An event of this kind with these fields, whatever else it holds."""

    def __init__(self, event: type[Event], of_task: str | None = None, /, **fields: Any) -> None:
        self.event, self.fields = event, ({"task": of_task} if of_task else {}) | fields

    def __eq__(self, event: object) -> bool:
        return type(event) is self.event and all(getattr(event, key) == value for key, value in self.fields.items())

    def __repr__(self) -> str:
        return f"{self.event.__name__}({', '.join(f'{key}={value!r}' for key, value in self.fields.items())})"


class given:
    """What has happened. `events` holds what the last `when` led to; `state` is the fold of all before it."""

    def __init__(self, *history: Any) -> None:
        self.state, self.command, self.events = Workflow(), None, []
        for fact in history:
            replay(decide(self.state, fact) if isinstance(fact, Command) else [fact], self.state)

    def when(self, command: Any) -> Self:
        self.command = command
        return self

    def then(self, *expected: Any) -> Self:
        self.events = decide(self.state, self.command)
        assert self.events == list(expected), "it led to:\n" + "\n".join(map(repr, self.events))
        replay(self.events, self.state)
        return self

    def refused(self, error: type[Refused], match: str = "") -> Self:
        with pytest.raises(error, match=match):
            decide(self.state, self.command)
        return self

    def answer(self, ask: str, choice: str, shown: str = "", by: str = "pat", **more: Any) -> Answer:
        """Pat's answer to what was really shown, unless `shown` is something else."""
        return Answer(now=NOW, ask=ask, shown=shown or self.state.asks[ask].shown, choice=choice, by=by, **more)


def start(*tasks: Task, base: str | None = "c0", escalation: Escalation = NOBODY, **more: Any) -> StartWorkflow:
    plan = Plan(id="w", tasks=tasks, escalation=escalation, **more)
    return StartWorkflow(now=NOW, workflow="w", plan=plan, base=base, repository="/srv/w.git")


def started(run: str, token: int, agent: str = "ann", now: float = NOW) -> ReportStarted:
    return ReportStarted(now=now, task=run.split("/")[0], run=run, token=token, agent=agent)


def completed(run: str, token: int, commit: str | None = "c1", agent: str = "ann", data: Any = None) -> ReportCompleted:
    result = Result("done", commit, data=data)
    return ReportCompleted(now=NOW, task=run.split("/")[0], run=run, token=token, agent=agent, result=result)


def failed(run: str, token: int, kind: FailureType = "agent_error", agent: str = "ann") -> ReportFailed:
    failure = Failure(kind, "it broke")
    return ReportFailed(now=NOW, task=run.split("/")[0], run=run, token=token, agent=agent, failure=failure)


def asked(run: str, token: int, question: str = "Which?", agent: str = "ann", **more: Any) -> ReportAsked:
    return ReportAsked(now=NOW, task=run.split("/")[0], run=run, token=token, agent=agent, question=question, **more)


def too_late(ask: str, now: float = NOW + 30 * 86_400) -> ExpireAsk:
    return ExpireAsk(now=now, ask=ask)


def verified(run: str, token: int, *receipts: Receipt, agent: str = "tess") -> ReportVerified:
    return ReportVerified(now=NOW, task=run.split("/")[0], run=run, token=token, agent=agent, receipts=receipts)


def retry(attempt: int, task: str = "a") -> Retry:
    return Retry(now=NOW, task=task, attempt=attempt)


def offer_again(token: int, task: str = "a") -> Redispatch:
    return Redispatch(now=NOW, task=task, token=token)


def receipt(
    cmd: str, exit_code: int | None = 0, commit: str | None = "c1", timed_out: bool = False, output: str = ""
) -> Receipt:
    return Receipt(cmd, exit_code, timed_out, 1.0, "process", commit, len(output), "0" * 64, output)


def green(commit: str | None = "c1") -> tuple[Receipt, ...]:
    return receipt("make test", commit=commit), receipt("make lint", commit=commit)


def red(commit: str | None = "c1", exit_code: int | None = 1, **how: Any) -> tuple[Receipt, ...]:
    return receipt("make test", exit_code, commit, **how), receipt("make lint", commit=commit)
