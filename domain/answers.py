"""What follows from an answer, and which answers are none: the hash is stale, the option unknown, the person another.

A default that is taken at the deadline has the same consequences as the answer it stands for.
"""

import msgspec

from domain import spending
from domain.acts import TASK_BYTES
from domain.commands import Answer, ExpireAsk
from domain.consequences import Consequences
from domain.errors import Conflict, NotFound, Refused
from domain.events import AskAnswered, AskExpired, TaskEdited, WorkflowEvent
from domain.plan import AcceptanceCriteria, Edit, Plan, Task
from domain.state import LATE, Ask, TaskState, Workflow, refusal, settle
from domain.validate import problems


def answer(state: Workflow, command: Answer) -> list[WorkflowEvent]:
    ask = state.asks.get(command.ask)
    if ask is None:
        raise NotFound(f"workflow {state.id} has no ask {command.ask}")
    _check(state, ask, command)
    said = AskAnswered(
        ask=command.ask, task=ask.task, choice=command.choice, by=command.by, because=command.because,
        instructions=command.instructions, role=command.role, edit=command.edit, at=command.now,
    )  # fmt: skip
    return _followed(state, ask, said, command.now)


def expire(state: Workflow, command: ExpireAsk) -> list[WorkflowEvent]:
    ask = state.asks.get(command.ask)
    if ask is None or ask.state != "open" or ask.due is None or command.now < ask.due:
        return []
    late = AskExpired(ask=command.ask, task=ask.task, choice=ask.default, at=command.now)
    return _followed(state, ask, late, command.now)


def _followed(state: Workflow, ask: Ask, said: AskAnswered | AskExpired, now: float) -> list[WorkflowEvent]:
    task = msgspec.structs.replace(state.tasks[ask.task])
    settle(task, ask, said)
    by, because = (said.by, said.because) if isinstance(said, AskAnswered) else ("", LATE)
    then = Consequences(state, now)
    then.events.append(said)
    if isinstance(said, AskAnswered) and (said.edit or said.role):
        task.spec = edited(task.spec, said.edit, said.role)
        then.events.append(TaskEdited(task=said.task, spec=task.spec, by=said.by, reason=said.because))
    match ask.kind, said.choice:
        case (("before_dispatch" | "before_completion"), "reject"):
            then.refused(task, refusal(by, because))
        case "before_completion", _:
            assert task.result is not None
            then.complete(task, task.result, task.work, task.agent)
        case "escalation", "accept":
            assert task.result is not None
            then.complete(task, task.result, task.made, task.agent, waived_by=by or LATE)
        case "escalation", "fail":
            then.fail(task, task.failure or refusal(by, because))
        case "budget", _:
            spending.answered(then, task, said)
        case _:
            then.dispatch(task)
    return then.events


def edited(spec: Task, edit: Edit | None, role: str | None) -> Task:
    """The task as it is to be done from now on. Somebody of another role needs no capabilities besides."""
    edit = edit or Edit()
    tests = spec.acceptance_criteria if edit.tests is None else AcceptanceCriteria(edit.tests)
    return msgspec.structs.replace(
        spec,
        description=spec.description if edit.description is None else edit.description,
        inputs=spec.inputs if edit.inputs is None else edit.inputs,
        acceptance_criteria=tests,
        agent_role=role or spec.agent_role,
        capabilities=spec.capabilities if role in (None, spec.agent_role) else (),
    )


def _check(state: Workflow, ask: Ask, command: Answer) -> None:
    name = command.ask
    match ask.state:
        case "answered":
            raise Conflict(f"ask {name} was answered by {ask.answered_by}")
        case "expired":
            raise Conflict(f"ask {name} was not answered in time: {ask.default or 'no answer'} was taken")
        case "voided":
            task = state.tasks[ask.task]
            since = f"ask {task.ask} asks anew" if task.ask else f"task {ask.task} is {task.status}"
            raise Conflict(f"ask {name} is void, what it showed is no longer so: {since}")
    if ask.shown != command.shown:
        raise Conflict(f"ask {name} shows something else by now ({ask.shown[:12]}): look again, then decide")
    if ask.who and command.by not in ask.who:
        raise Conflict(f"ask {name} is for {', '.join(ask.who)} to answer, not for {command.by}")
    if ask.options and command.choice not in ask.options:
        raise Conflict(f"ask {name} has no option {command.choice!r}, it has: {', '.join(ask.options)}")
    if not command.choice.strip():
        raise Conflict(f"ask {name} takes an answer in words, not an empty one")
    choice = command.choice if ask.kind == "escalation" else ""
    if (choice == "reassign") != (command.role is not None):
        raise Refused("the choice reassign takes a role, and no other choice does")
    if (choice == "edit") != (command.edit is not None):
        raise Refused("the choice edit takes what is to be edited, and no other choice does")
    if choice in ("edit", "reassign"):
        _check_task(state, state.tasks[ask.task], command)


def _check_task(state: Workflow, task: TaskState, command: Answer) -> None:
    """The task as it would be has to be one that a plan can hold."""
    spec = edited(task.spec, command.edit, command.role)
    if spec == task.spec:
        raise Refused(f"that changes nothing of task {spec.id}: choose retry")
    if (size := len(msgspec.json.encode(spec))) > TASK_BYTES:
        raise Refused(f"task {spec.id} would have {size} bytes, the limit is {TASK_BYTES}: put its inputs into files")
    alone = msgspec.structs.replace(spec, dependencies=(), parent_id=None)
    if found := problems(msgspec.json.encode(Plan(id="edited", tasks=(alone,), roles=state.roles))):
        raise Refused("the task would be no good: " + "; ".join(map(str, found)))
