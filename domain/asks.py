"""What a person is asked: an approval, a question of an agent, more budget, what to do where all was tried in vain.

One kind of thing: content and its sha256, options, a deadline, the default that is taken then, who may answer. Content
binds an answer to what was looked at: the whole task, and the commits that hold its files.
"""

import hashlib
from typing import Any, NamedTuple

import msgspec

from domain.commands import ReportAsked
from domain.events import AskKind, AskOpened
from domain.outcome import Failure
from domain.plan import Approvals, Escalation
from domain.state import TaskState

APPROVAL = ("approve", "reject")
ESCALATION = ("retry", "accept", "edit", "reassign", "fail")
"""Retry, edit and reassign give the task all its attempts anew; its branches stay counted. What has left no result
cannot be accepted."""
QUESTION_SECONDS = 7 * 86_400.0
"""How long a question waits for its answer unless the agent says so itself."""
QUESTIONS = 10
"""That the agents of one task may ask: beyond it an attempt has failed, or they could ask for ever."""
BUDGET = ("raise", "fail")
APPROVED: dict[AskKind, str] = {
    "before_dispatch": "May this task start?",
    "before_completion": "Does this result count as completed?",
}


class Draft(NamedTuple):
    """An ask that has no name yet. `content` is made of anything that can be JSON."""

    kind: AskKind
    content: dict[str, Any]
    question: str
    options: tuple[str, ...]
    due_seconds: float
    default: str | None
    who: tuple[str, ...] = ()

    def opened(self, ask: str, task: str, now: float) -> AskOpened:
        content = msgspec.to_builtins(self.content)
        return AskOpened(
            ask=ask, task=task, kind=self.kind, shown=_sha256(content), content=content, question=self.question,
            options=self.options, default=self.default, who=self.who, at=now, due=now + self.due_seconds,
        )  # fmt: skip

    @property
    def shown(self) -> str:
        return _sha256(msgspec.to_builtins(self.content))


def approval(kind: AskKind, content: dict[str, Any], plan: Approvals) -> Draft:
    return Draft(kind, content, APPROVED[kind], APPROVAL, plan.due_seconds, plan.default, plan.who)


def question(task: TaskState, asked: ReportAsked) -> Draft:
    content = {"task": task.spec, "question": asked.question, "options": asked.options}
    due_seconds = QUESTION_SECONDS if asked.due_seconds is None else asked.due_seconds
    return Draft("question", content, asked.question, asked.options, due_seconds, asked.default)


def escalation(task: TaskState, failure: Failure, bases: tuple[str, ...], plan: Escalation) -> Draft:
    """What was to be done, what was tried, and how it failed."""
    content = {
        "task": task.spec, "bases": bases, "failure": failure, "attempts": task.attempt, "branches": task.branches,
        "result": task.result, "receipts": task.receipts,
    }  # fmt: skip
    options = tuple(option for option in ESCALATION if task.result or option != "accept")
    question = f"{failure.message}: what now?"
    return Draft("escalation", content, question, options, plan.due_seconds, taken(task, plan), plan.who)


def budget(why: str, content: dict[str, Any], plan: Escalation) -> Draft:
    """Nothing is added by itself: what nobody answers fails, where nobody is to be asked as soon as the clock looks."""
    question = f"{why}: may more be used?"
    return Draft("budget", content, question, BUDGET, plan.due_seconds, "fail", plan.who)


def taken(task: TaskState, plan: Escalation) -> str:
    """The default of an escalation: what left no result fails."""
    return plan.default if task.result else "fail"


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
