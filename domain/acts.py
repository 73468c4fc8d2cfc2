"""What an operator may do to a workflow that runs, when it is refused, and with which sentence.

The same act again, while it is so already, leads to nothing. What is closed stays closed. A branch is not acted on
alone, but for its backoff and its priority: it is the matter of the task that it mends.

It is long because every act has its own refusals, and they share what they are refused by.
"""

from collections.abc import Callable, Iterable, Sequence
from graphlib import TopologicalSorter
from typing import Any, NoReturn, assert_never

import msgspec

from domain import branches
from domain.commands import (
    Act,
    AddTasks,
    Cancel,
    EditTask,
    ExpireTask,
    ExpireWorkflow,
    Pause,
    Prioritise,
    Resume,
    RetryNow,
    Skip,
    SplitTask,
)
from domain.consequences import Consequences
from domain.errors import NotFound, Refused
from domain.events import (
    RetryScheduled,
    TaskAdded,
    TaskEdited,
    TaskPrioritised,
    WorkflowCancelled,
    WorkflowEvent,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowTimedOut,
)
from domain.plan import Task
from domain.state import CLOSED, PASSED, TaskState, Workflow, evolve
from domain.validate import InvalidPlan, Problem, problems

TASK_BYTES = 262_144
"""A task of a plan, so that its dispatch fits into one message on any bus."""
MOST_PRIORITY = 1_000
EDITABLE = (
    "title", "description", "agent_role", "capabilities", "inputs", "files", "priority", "acceptance_criteria",
    "timeout_seconds", "total_seconds", "max_attempts",
)  # fmt: skip
"""The fields of a task that `EditTask` changes."""
VERBS: dict[type[Act], str] = {
    Cancel: "cancel", Pause: "pause", Resume: "resume", RetryNow: "retry", Skip: "skip", EditTask: "edit",
    AddTasks: "add to", SplitTask: "split", Prioritise: "prioritise",
}  # fmt: skip


class InvalidTasks(InvalidPlan):
    """Tasks that cannot be added, or cannot become what they should; the pointers are into what was sent."""


def act(state: Workflow, command: Act) -> list[WorkflowEvent]:
    """The events that follow; none when it is so already. Raises Refused with the sentence to show."""
    whole = isinstance(command, Cancel) and command.task is None
    if state.status != "running" and not (whole and state.status == "queued"):
        if whole and state.status == "cancelled":
            return []
        if state.status == "queued":
            raise Refused(
                f"workflow {state.id} waits for its place: {VERBS[type(command)]} it once it runs, or cancel it"
            )
        raise Refused(f"workflow {state.id} is {state.status}: nothing is left to {VERBS[type(command)]}")
    match command:
        case Cancel(task=None):
            return [
                *_cancelled(state, command, command.by, command.reason),
                WorkflowCancelled(workflow=state.id, by=command.by, reason=command.reason),
            ]
        case Cancel(task=str(name)):
            return _close(state, command, name, "cancelled", Consequences.cancel)
        case Skip(task=name):
            return _close(state, command, name, "excused", Consequences.excuse)
        case Pause():
            paused = WorkflowPaused(workflow=state.id, by=command.by, at=command.now, reason=command.reason)
            return [] if state.paused else [paused]
        case Resume():
            return _resume(state, command) if state.paused else []
        case RetryNow():
            return _retry(state, command)
        case Prioritise():
            return _prioritise(state, command)
        case EditTask():
            return _edit(state, command)
        case AddTasks():
            return _add(state, command)
        case SplitTask():
            return _split(state, command)
    raise AssertionError(f"no rule for {type(command).__name__}")


def expire(state: Workflow, command: ExpireWorkflow | ExpireTask) -> list[WorkflowEvent]:
    """A limit in time was reached; nothing follows if it was moved meanwhile."""
    if state.status != "running":
        return []
    match command:
        case ExpireWorkflow():
            clock = state.clock
            if clock.due is None or command.now < clock.due:
                return []
            reason = f"it took longer than {clock.seconds:g} s"
            return [
                *_cancelled(state, command, "clock", reason),
                WorkflowTimedOut(workflow=state.id, reason=reason),
            ]
        case ExpireTask():
            task = state.tasks.get(command.task)
            if task is None or task.status in CLOSED or task.expires is None or command.now < task.expires:
                return []
            then = Consequences(state, command.now)
            then.expire(task)
            return then.events
    assert_never(command)


def _cancelled(state: Workflow, command: Act | ExpireWorkflow, by: str, reason: str) -> list[WorkflowEvent]:
    then = Consequences(state, command.now)
    for task in state.tasks.values():
        if task.status not in CLOSED:
            then.cancel_too(task, by, reason, reason or f"{by} cancelled the workflow")
    return then.events


def _close(
    state: Workflow, command: Cancel | Skip, name: str, closed: str,
    how: Callable[[Consequences, TaskState, str, str], None],
) -> list[WorkflowEvent]:  # fmt: skip
    task = _task(state, name)
    if task.status == closed:
        return []
    _own(task, command)
    _open(task, command)
    then = Consequences(state, command.now)
    how(then, task, command.by, command.reason)
    return then.events


def _resume(state: Workflow, command: Resume) -> list[WorkflowEvent]:
    resumed = WorkflowResumed(workflow=state.id, by=command.by, at=command.now, reason=command.reason)
    then = Consequences(msgspec.structs.replace(state, paused=False), command.now)
    then.events.append(resumed)
    then.resume(task for task in state.tasks.values() if task.held)
    return then.events


def _retry(state: Workflow, command: RetryNow) -> list[WorkflowEvent]:
    task = _task(state, command.task)
    if task.run or task.held:
        return []
    _open(task, command)
    if task.status != "retrying":
        _refuse(state, task, command)
    then = Consequences(state, command.now)
    then.events.append(
        RetryScheduled(
            task=command.task, attempt=task.attempt + 1, due=command.now, by=command.by, reason=command.reason
        )
    )
    then.dispatch(task)
    return then.events


def _prioritise(state: Workflow, command: Prioritise) -> list[WorkflowEvent]:
    task = _task(state, command.task)
    if task.spec.priority == command.priority:
        return []
    _open(task, command)
    if abs(command.priority) > MOST_PRIORITY:
        raise Refused(f"a priority is from -{MOST_PRIORITY} to {MOST_PRIORITY}, not {command.priority}")
    then = Consequences(state, command.now)
    then.events.append(
        TaskPrioritised(task=command.task, priority=command.priority, by=command.by, reason=command.reason)
    )
    if task.status == "queued":  # its turn changes
        spec = msgspec.structs.replace(task.spec, priority=command.priority)
        then.queues(msgspec.structs.replace(task, spec=spec))
    return then.events


def _edit(state: Workflow, command: EditTask) -> list[WorkflowEvent]:
    task = _task(state, command.task)
    if other := next((name for name in command.changes if name not in EDITABLE), None):
        raise InvalidTasks([Problem(f"/changes/{other}", "it cannot be edited", f"these can: {', '.join(EDITABLE)}")])
    other_role = command.changes.get("agent_role", task.spec.agent_role) != task.spec.agent_role
    changed = msgspec.to_builtins(task.spec) | ({"capabilities": []} if other_role else {}) | command.changes
    _own(task, command)
    [spec] = _checked(state, [changed], "/changes")
    if spec == task.spec:
        return []
    _open(task, command)
    asked = state.asks[task.ask] if task.ask else None
    approval = asked is not None and asked.kind == "before_dispatch"
    if task.run or (task.status not in ("pending", "retrying") and not approval):
        _refuse(state, task, command)
    then = Consequences(state, command.now)
    goes_on = spec.total_seconds == task.spec.total_seconds and {*spec.dependencies} <= {*task.spec.dependencies}
    expires = task.expires if goes_on else None
    edited = TaskEdited(task=command.task, spec=spec, by=command.by, reason=command.reason, expires=expires)
    now = msgspec.structs.replace(task, spec=spec, ask=None)
    if asked is None or then.approval(now).shown == asked.shown:
        return [edited]
    then.void(task, command.reason or f"{command.by} edited {command.task}")
    then.events.append(edited)
    then.dispatch(now)
    return then.events


def _add(state: Workflow, command: AddTasks) -> list[WorkflowEvent]:
    new = _checked(state, command.tasks, "/tasks")
    if not new or all(_is_there(state, spec) for spec in new):
        return []
    return _joined(state, command, new, [])


def _split(state: Workflow, command: SplitTask) -> list[WorkflowEvent]:
    task, name = _task(state, command.task), command.task
    inherited = [need for need in task.spec.dependencies if need not in {part.id for part in command.parts}]
    parts = [
        msgspec.structs.replace(
            part, parent_id=name, dependencies=tuple(dict.fromkeys([*inherited, *part.dependencies]))
        )
        for part in command.parts
    ]
    if parts and all(_is_there(state, part) for part in parts):
        return []
    _own(task, command)
    _open(task, command)
    if task.run or task.status not in ("pending", "retrying"):
        _refuse(state, task, command)
    after = _dependents(state, name)
    for index, part in enumerate(command.parts):
        if waits := [need for need in part.dependencies if need in after]:
            message = f"part {part.id} cannot wait for {waits[0]}, which waits for {name}"
            raise InvalidTasks([Problem(f"/parts/{index}/dependencies", message)])
    new = _checked(state, parts, "/parts")
    if not new:
        raise InvalidTasks([Problem("/parts", "a task is split into at least one part")])
    needs = tuple(dict.fromkeys([*task.spec.dependencies, *(part.id for part in new)]))
    whole = msgspec.structs.replace(task.spec, dependencies=needs, group=command.replace or task.spec.group)
    return _joined(state, command, new, [TaskEdited(task=name, spec=whole, by=command.by, reason=command.reason)])


def _joined(
    state: Workflow, command: AddTasks | SplitTask, new: Sequence[Task], edited: Sequence[TaskEdited]
) -> list[WorkflowEvent]:
    """New tasks, each after those it depends on, and what can begin of them."""
    specs = {spec.id: spec for spec in new}
    for spec in new:
        if spec.id in state.tasks:
            raise Refused(f"workflow {state.id} has a task {spec.id} already: give the new one another id")
        for need in spec.dependencies:
            if need in state.tasks and (status := state.tasks[need].status) in CLOSED - PASSED:
                raise Refused(f"task {spec.id} would wait for ever: {need} is {status}")
    order = TopologicalSorter({spec.id: [need for need in spec.dependencies if need in specs] for spec in new})
    events: list[WorkflowEvent] = [
        *(
            TaskAdded(task=name, spec=specs[name], by=command.by, reason=command.reason)
            for name in order.static_order()
        ),
        *edited,
    ]
    after = _fork(state, [one.task for one in edited])
    for event in events:
        evolve(after, event)
    then = Consequences(after, command.now)
    then.events += events
    then.ready([after.tasks[spec.id] for spec in new if not after.tasks[spec.id].missing])
    return then.events


def _fork(state: Workflow, changed: Iterable[str]) -> Workflow:
    """A state to fold onto that shares with the other what adding tasks does not change."""
    own = {name: msgspec.structs.replace(state.tasks[name]) for name in changed}
    return msgspec.structs.replace(
        state,
        tasks=state.tasks | own,
        books=state.books and state.books.copy(),
        dependents={need: [*those] for need, those in state.dependents.items()},
    )


def _checked(state: Workflow, tasks: Sequence[Task | dict[str, Any]], under: str) -> tuple[Task, ...]:
    """The tasks, if a plan could hold them beside those that are there; InvalidTasks with pointers below `under`."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(tasks)
    own = {task["id"] for task in plain}
    named = {name for task in plain for name in (*task.get("dependencies", ()), task.get("parent_id"))}
    there = [
        {"id": name} for name in sorted(named - own - {None}) if name in state.tasks and not state.tasks[name].depth
    ]
    if not plain:
        return ()
    raw = msgspec.json.encode({"id": "more", "roles": state.roles, "tasks": [*plain, *there]})
    if found := problems(raw):
        prefix = "/tasks/0" if under == "/changes" else "/tasks"
        raise InvalidTasks(
            [msgspec.structs.replace(one, pointer=under + one.pointer.removeprefix(prefix)) for one in found]
        )
    checked = tuple(msgspec.convert(task, Task) for task in plain)
    for task in checked:
        if (size := len(msgspec.json.encode(task))) > TASK_BYTES:
            raise Refused(f"task {task.id} has {size} bytes, the limit is {TASK_BYTES}: put its inputs into files")
    return checked


def _is_there(state: Workflow, spec: Task) -> bool:
    there = state.tasks.get(spec.id)
    return there is not None and there.spec == spec


def _dependents(state: Workflow, name: str) -> set[str]:
    """The task itself and all that wait for it, whatever lies between."""
    found, front = {name}, [name]
    while front:
        new = [one for one in state.dependents.get(front.pop(), ()) if one not in found]
        found.update(new)
        front += new
    return found


def _task(state: Workflow, name: str) -> TaskState:
    task = state.tasks.get(name)
    if task is None:
        raise NotFound(f"workflow {state.id} has no task {name}")
    return task


def _own(task: TaskState, command: Act) -> None:
    if task.depth:
        raise Refused(f"{task.spec.id} mends {task.spec.parent_id}: {VERBS[type(command)]} that one")


def _open(task: TaskState, command: Act) -> None:
    if task.status in CLOSED:
        instead = ": what is closed stays so, add a task that does it anew" if isinstance(command, RetryNow) else ""
        verb = VERBS[type(command)]
        raise Refused(f"task {task.spec.id} is {task.status}, there is nothing left to {verb}{instead}")


def _refuse(state: Workflow, task: TaskState, command: Act) -> NoReturn:
    name, verb = task.spec.id, VERBS[type(command)]
    match task.status:
        case "pending":
            needs = [need for need in task.spec.dependencies if state.tasks[need].status not in PASSED]
            why = f"it waits for {', '.join(needs)}" if needs else "it is about to be dispatched"
        case "queued":
            why = "it waits for a slot: wait until it has had it, or cancel or skip it"
        case "waiting":
            why = f"it waits for a person: answer {task.ask} first"
        case "branched":
            mending = ", ".join(branch.spec.id for branch in branches.below(state, task))
            why = f"{mending} mends it: wait for that, or cancel or skip it"
        case _:
            run = f" ({task.run.id})" if task.run else ""
            why = f"it is under way{run}: wait until it has ended, or cancel or skip it"
    raise Refused(f"task {name} is {task.status} and cannot be {PAST[verb]}: {why}")


PAST = {"retry": "retried", "edit": "edited", "split": "split"}
