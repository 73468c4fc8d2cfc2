"""How each event changes the documents that can be found: a workflow, a task, an ask or an agent is one each."""

from typing import Any

import msgspec
from msgspec import convert
from msgspec.structs import asdict

from domain.events import (
    AgentDrained,
    AgentJoined,
    AgentLeft,
    AgentLost,
    AgentReturned,
    AskAnswered,
    AskExpired,
    AskOpened,
    AskVoided,
    AttemptFailed,
    TaskAdded,
    TaskAsked,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskEdited,
    TaskExcused,
    TaskFailed,
    TaskNoted,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    TaskVerified,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStarted,
    WorkflowTimedOut,
)
from domain.outcome import Failure, Result
from domain.plan import Task
from ledger.recorded import Recorded
from projections.search_query import DocumentStatus, DocumentType
from projections.search_text import fact, lexed

TITLE_CHARACTERS = 500
TEXT_CHARACTERS = 4_000
DOCUMENT_CHARACTERS = 16_000
"""Of all its texts; of what is too much the oldest goes, but not what it was told to do."""

WEIGHTS = {"error": "b", "answer": "b", "description": "c", "result": "c", "reason": "c"}
"""How much a word counts by where it stands: most in a title (a). Anything else is d."""
STANDING = ("description", "inputs")
Key = tuple[str, str]


class Document(msgspec.Struct, gc=False):
    """`name` is that of an ask or an agent. `texts` are pairs: where it stands, and what it says. Documents are
    numbered in the order in which they were made, by an event at `position`."""

    number: int
    position: int
    type: DocumentType
    workflow: str
    task: str
    name: str
    title: str
    status: DocumentStatus
    role: str = ""
    agents: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()

    def says(self, where: str, text: str) -> None:
        text = text[:TEXT_CHARACTERS].replace("\0", "\ufffd").strip()  # as Postgres will have it
        if not text or (where, text) in self.texts:
            return
        kept = [one for one in self.texts if where not in STANDING or one[0] != where]
        kept.append((where, text))
        while sum(len(one[1]) for one in kept) > DOCUMENT_CHARACTERS:
            oldest = next((one for one in kept if one[0] not in STANDING), kept[-1])
            kept.remove(oldest)
        self.texts = tuple(kept)


class Indexed(Document, gc=False):
    """As it is written: with the words of its texts by what they weigh, and its fields."""

    a: str = ""
    b: str = ""
    c: str = ""
    d: str = ""
    facts: tuple[str, ...] = ()


def indexed(it: Document) -> Indexed:
    texts: dict[str, list[str]] = {"a": [it.title, it.name or it.task or it.workflow]}
    for where, text in it.texts:
        texts.setdefault(WEIGHTS.get(where, "d"), []).append(text)
    named = {"type": it.type, "status": it.status, "role": it.role, "workflow": it.workflow}
    named |= {"task": it.task} if it.type in ("task", "ask") else {}
    facts = [fact(field, value) for field, value in named.items() if value]
    facts += [*(fact("agent", agent) for agent in it.agents), *(fact("failure", failure) for failure in it.failures)]
    words = {weight: lexed(" . ".join(some)) for weight, some in texts.items()}
    return convert(asdict(it) | words | {"facts": facts}, Indexed)


class Changes:
    """Folds events into the documents it is given, by workflow and task and then by name, and knows which differ now."""

    def __init__(self, documents: dict[Key, dict[str, Document]], last: int) -> None:
        """`last` is the number of the newest document there is."""
        self._documents, self._last = documents, last
        self.changed: dict[int, Document] = {}

    def fold(self, stream: str, recorded: Recorded) -> None:
        """`stream` is the workflow's name, or "" for that of an agent. LookupError if a document is not there."""
        event, position = recorded.event, recorded.position
        match event:
            case WorkflowStarted(plan=plan):
                it = self._new(position, "workflow", stream, "", "", plan.title)
                it.says("description", plan.objective)
                for spec in plan.tasks:
                    self._create(stream, position, spec)
            case TaskAdded(spec=spec):
                self._create(stream, position, spec)
            case TaskBranched(branch=branch, debug=debug):
                it = self._create(stream, position, branch)
                it.says("reason", debug.reason)
            case TaskEdited(task=task, spec=spec):
                self._describe(self._task(stream, task), spec)
            case TaskRerouted(task=task, role=role):
                self._task(stream, task).role = role
            case TaskAsked(task=task, agent=agent):
                self._by(stream, task, agent)
            case TaskReported(task=task, result=result, agent=agent):
                _result(self._by(stream, task, agent), result)
            case TaskCompleted(task=task, result=result, agent=agent):
                it = self._by(stream, task, agent)
                _result(it, result)
                self._close(it, "completed")
            case TaskVerified(task=task, agent=agent, receipts=receipts):
                it = self._by(stream, task, agent)
                for receipt in receipts:
                    if not receipt.passed:
                        it.says("error", _tail(receipt.cmd, receipt.output))
            case AttemptFailed(task=task, agent=agent, failure=failure):
                _failure(self._by(stream, task, agent or ""), failure)
            case TaskFailed(task=task, failure=failure):
                it = self._task(stream, task)
                _failure(it, failure)
                self._close(it, "failed")
            case TaskSkipped(task=task, because=because):
                it = self._task(stream, task)
                it.says("reason", because)
                self._close(it, "skipped")
            case TaskCancelled(task=task, by=by, reason=reason):
                it = self._task(stream, task)
                it.says("reason", f"{by} {reason}")
                self._close(it, "cancelled")
            case TaskExcused(task=task, by=by, reason=reason):
                it = self._task(stream, task)
                it.says("reason", f"{by} {reason}")
                self._close(it, "excused")
            case TaskNoted(task=task, key=key, value=value):
                self._task(stream, task).says("note", f"{key}: {_plain(value)}")
            case AskOpened(task=task, ask=ask):
                it = self._new(position, "ask", stream, task, ask, event.question or event.kind)
                it.role = self._task(stream, task).role
                it.says("payload", _plain(event.content))
                it.says("payload", " ".join((event.kind.replace("_", " "), *event.options)))
            case AskAnswered(task=task, ask=ask, by=by):
                it = self._named(stream, task, ask)
                it.status = "answered"
                it.says("answer", "\n".join(filter(None, (event.choice, event.because, event.instructions))))
                it.says("payload", by)
            case AskExpired(task=task, ask=ask, choice=choice):
                it = self._named(stream, task, ask)
                it.status = "expired"
                it.says("answer", choice or "")
            case AskVoided(task=task, ask=ask, why=why):
                it = self._named(stream, task, ask)
                it.status = "voided"
                it.says("reason", why)
            case WorkflowCompleted():
                self._named(stream, "", "").status = "completed"
            case WorkflowFailed(reason=reason):
                self._over(stream, "failed", reason)
            case WorkflowTimedOut(reason=reason):
                self._over(stream, "timed_out", reason)
            case WorkflowCancelled(by=by, reason=reason):
                self._over(stream, "cancelled", f"{by} {reason}")
            case AgentJoined(agent=agent):
                known = self._documents.get(("", agent), {}).get(agent)
                it = known or self._new(position, "agent", "", agent, agent, agent)
                self.changed[it.number] = it
                it.status, it.role, it.agents = "here", event.role, (agent,)
                it.texts = ()
                it.says("description", " ".join((event.role, *event.capabilities, event.version)))
            case AgentLost(agent=agent):
                self._named("", agent, agent).status = "lost"
            case AgentReturned(agent=agent):
                self._named("", agent, agent).status = "here"
            case AgentDrained(agent=agent, by=by, reason=reason):
                self._named("", agent, agent).says("reason", f"{by} {reason}")
            case AgentLeft(agent=agent):
                self._named("", agent, agent).status = "left"

    def _new(self, position: int, type: DocumentType, workflow: str, task: str, name: str, title: str) -> Document:
        self._last += 1
        title = title[:TITLE_CHARACTERS].replace("\0", "\ufffd")
        it = Document(self._last, position, type, workflow, task, name, title, "open")
        self._documents.setdefault((workflow, task), {})[name] = self.changed[it.number] = it
        return it

    def _create(self, workflow: str, position: int, spec: Task) -> Document:
        it = self._new(position, "task", workflow, spec.id, "", spec.title or spec.id)
        self._describe(it, spec)
        return it

    def _describe(self, it: Document, spec: Task) -> None:
        it.title, it.role = (spec.title or spec.id)[:TITLE_CHARACTERS], spec.agent_role
        it.says("description", spec.description)
        told = {"inputs": spec.inputs, "files": spec.files, "metadata": spec.metadata}
        it.says("inputs", _plain({name: value for name, value in told.items() if value}) if any(told.values()) else "")

    def _named(self, workflow: str, task: str, name: str) -> Document:
        it = self._documents.get((workflow, task), {}).get(name)
        if it is None:
            raise LookupError(f"search knows no {name or task or workflow} of {workflow}/{task}")
        self.changed[it.number] = it
        return it

    def _task(self, workflow: str, task: str) -> Document:
        return self._named(workflow, task, "")

    def _by(self, workflow: str, task: str, agent: str) -> Document:
        it = self._task(workflow, task)
        if agent and agent not in it.agents:
            it.agents = (*it.agents, agent)
        return it

    def _close(self, it: Document, status: DocumentStatus) -> None:
        it.status = status
        for ask in self._documents[it.workflow, it.task].values():
            if ask.type == "ask" and ask.status == "open":
                self.changed[ask.number] = ask
                ask.status = "voided"

    def _over(self, workflow: str, status: DocumentStatus, reason: str) -> None:
        it = self._named(workflow, "", "")
        it.status = status
        it.says("reason", reason)


def _result(it: Document, result: Result) -> None:
    it.says("result", "\n".join((result.summary, *result.files)))
    if result.data is not None:
        it.says("payload", _plain(result.data))


def _failure(it: Document, failure: Failure) -> None:
    if failure.type not in it.failures:
        it.failures = (*it.failures, failure.type)
    it.says("error", _tail(f"{failure.type}: {failure.message}", failure.detail))


def _tail(first: str, long: str) -> str:
    """The first line, and as much of the end of the rest as there is room for."""
    first = first[: TEXT_CHARACTERS // 2]
    return f"{first}\n{long[-(TEXT_CHARACTERS - len(first) - 1) :]}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
