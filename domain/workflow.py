"""The rules of a workflow: `decide` answers a command with the events it leads to, or refuses it.

All consequences inside the workflow are decided at once: the report that completes a task also yields the dispatch of
the tasks it freed. `decide` never changes the state, so what this very decision has settled is kept beside it, in
`domain.consequences`. It is long because every command that is asked of a workflow has its rule here.
"""

from itertools import chain
from typing import assert_never

import msgspec

from domain import answers, notes, spending
from domain.acts import TASK_BYTES, act, expire
from domain.commands import (
    Act,
    Admit,
    Answer,
    ExpireAsk,
    ExpireLease,
    ExpireRun,
    ExpireTask,
    ExpireWorkflow,
    Grant,
    RaiseBudget,
    Redispatch,
    Report,
    ReportAsked,
    ReportCompleted,
    ReportFailed,
    ReportNoted,
    ReportReserve,
    ReportSettle,
    ReportStarted,
    ReportUsage,
    ReportVerified,
    Restore,
    Retry,
    StartWorkflow,
    WorkflowCommand,
)
from domain.consequences import Consequences, seconds_allowed
from domain.errors import Conflict, NotFound, Refused
from domain.events import (
    ReportRefused,
    TaskNoted,
    TaskReported,
    TaskStarted,
    TaskVerified,
    WorkflowAdmitted,
    WorkflowEvent,
    WorkflowRestored,
    WorkflowStarted,
)
from domain.failures import classify
from domain.outcome import SEVERITIES, Failure, Receipt, Result
from domain.plan import Task
from domain.shape import misfit
from domain.state import Run, TaskState, Workflow, evolve, next_run

CLOCKS_SECONDS = 1.0
"""An agent that ends its run in time counts from when it began, which is known here a moment later."""

MESSAGE_CHARACTERS, DETAIL_CHARACTERS = 500, 4_000
"""Of a failure that is told in a result's own words."""

MAY_BE_FLAKY = frozenset({"test_failure", "timeout"})
"""What a second run of the same tests can turn out to be nothing but chance."""


def decide(state: Workflow, command: WorkflowCommand) -> list[WorkflowEvent]:
    """The events that follow; none when the command asks for what is so already.

    Raises Refused (NotFound, Conflict) with the sentence to show. A report of a run that no longer holds its lease is
    no error but a fact: it yields `report.refused` and changes nothing.
    """
    if isinstance(command, StartWorkflow):
        return _start(state, command)
    if state.status == "unknown":
        raise NotFound("there is no such workflow")
    match command:
        case ReportUsage():
            corrected = spending.corrected(state, command)
            return [_refusal(state, command, corrected)] if isinstance(corrected, str) else corrected
        case Report():
            return _report(state, command)
        case (
            Redispatch(task=name, token=token) | ExpireLease(task=name, token=token) | ExpireRun(task=name, token=token)
        ):
            return _expire(state, command, _holder(state, name, token))
        case Retry(task=name, attempt=attempt):
            task = state.tasks.get(name)
            if task is None or task.status != "retrying" or task.attempt + 1 != attempt:
                return []
            then = Consequences(state, command.now)
            then.dispatch(task)
            return then.events
        case Admit():
            return _admit(state, command)
        case Grant(task=name, run=run):
            task = state.tasks.get(name)
            if task is None or task.status != "queued" or next_run(task) != run:
                return []
            then = Consequences(state, command.now)
            then.grant(task)
            return then.events
        case Answer():
            return answers.answer(state, command)
        case ExpireAsk():
            return answers.expire(state, command)
        case RaiseBudget():
            return spending.raised(state, command)
        case Act():
            return act(state, command)
        case ExpireWorkflow() | ExpireTask():
            return expire(state, command)
        case Restore():
            return _restore(state, command)
    assert_never(command)


def _start(state: Workflow, command: StartWorkflow) -> list[WorkflowEvent]:
    whole = len(msgspec.json.encode(command.plan))
    for spec in command.plan.tasks if whole > TASK_BYTES else ():
        if (size := len(msgspec.json.encode(spec))) > TASK_BYTES:
            raise Refused(f"task {spec.id} has {size} bytes, the limit is {TASK_BYTES}: put its inputs into files")
    if state.status != "unknown":
        raise Conflict(f"workflow {command.workflow} was started before; give this run an id of its own")
    started = WorkflowStarted(
        workflow=command.workflow, plan=command.plan, repository=command.repository, base=command.base,
        lease_seconds=command.lease_seconds, prices=command.prices, queued=command.queued,
        limited_roles=command.limited_roles, at=command.now,
    )  # fmt: skip
    then = Consequences(evolve(Workflow(), started), command.now)
    then.events.append(started)
    if not command.queued:
        then.begin()
    return then.events


def _admit(state: Workflow, command: Admit) -> list[WorkflowEvent]:
    if state.status != "queued":
        return []
    then = Consequences(msgspec.structs.replace(state, status="running"), command.now)
    then.events.append(WorkflowAdmitted(workflow=state.id, at=command.now))
    then.begin()
    return then.events


def _holder(state: Workflow, name: str, token: int) -> tuple[TaskState, Run] | None:
    task = state.tasks.get(name)
    if task is None or task.run is None or task.run.token != token:
        return None
    return task, task.run


def _report(state: Workflow, command: Report) -> list[WorkflowEvent]:
    held = _holder(state, command.task, command.token)
    if held is None or held[1].id != command.run:
        return [_refusal(state, command)]
    task, run = held
    if why := run.foreign(command.agent, command.role):
        return [_refusal(state, command, why)]
    if run.agent not in (None, command.agent):
        return [_refusal(state, command, f"{run.agent} holds the lease")]
    if run.purpose == "verify" and command.agent == task.agent:
        return [_refusal(state, command, f"{task.agent} did the work and does not judge it")]
    if isinstance(command, (ReportCompleted, ReportVerified, ReportAsked)) and (run.purpose == "verify") != isinstance(
        command, ReportVerified
    ):
        return [_refusal(state, command, f"run {run.id} is there to {run.purpose}")]
    started = TaskStarted(
        task=command.task, run=run.id, agent=command.agent, lease_until=command.now + state.lease_seconds,
        timeout_at=command.now + run.allowed,
    )  # fmt: skip
    if isinstance(command, ReportNoted) and (why := notes.unfit(task, command.key, command.value)):
        return [_refusal(state, command, why)]
    if isinstance(command, ReportStarted):
        return [started] if run.agent is None else []
    then = Consequences(state, command.now)
    if run.agent is None:  # the outcome overtook the word that it had begun
        then.events.append(started)
    match command:
        case ReportCompleted(result=result) if why := _unfit(task.spec, result):
            then.attempt_failed(task, run, Failure("invalid_result", why), command.agent)
        case ReportCompleted(result=result) if found := _forbidden(task.spec, result):
            used = then.used(run, command.spent)
            then.events.append(
                TaskReported(task=command.task, run=run.id, agent=command.agent, result=result, usage=used)
            )
            reported = msgspec.structs.replace(task, result=result, made=run.id, work=run.id, agent=command.agent)
            then.attempt_failed(reported, run, found, command.agent, ended=True)
        case ReportCompleted(result=result) if task.spec.acceptance_criteria.tests:
            used = then.used(run, command.spent)
            then.events.append(
                TaskReported(task=command.task, run=run.id, agent=command.agent, result=result, usage=used)
            )
            then.verify(task, result, command.agent)
        case ReportCompleted(result=result):
            used = then.used(run, command.spent)
            if "before_completion" in task.spec.approval:
                then.events.append(
                    TaskReported(task=command.task, run=run.id, agent=command.agent, result=result, usage=used)
                )
            then.accept(task, result, run.id, command.agent, used=used)
        case ReportFailed(failure=failure):
            over = command.now - run.began > run.allowed - CLOCKS_SECONDS
            if failure.type == "timeout" and over and _cut_short(task, run):
                failure = Failure("budget", f"{failure.message}, its part of the budget", failure.detail)
            elif failure.type == "budget" and not run.short:  # it is not for agents to say
                failure = Failure("agent_error", f"(budget) {failure.message}", failure.detail)
            then.attempt_failed(task, run, failure, command.agent, spent=command.spent)
        case ReportAsked():
            then.question(task, run, command)
        case ReportVerified():
            _verified(then, task, run, command)
        case ReportReserve() | ReportSettle():
            match spending.called(then, run, command):
                case str(why):
                    then.events.append(_refusal(state, command, why))
                case events:
                    then.events += events
        case ReportNoted(key=key, value=value) if key not in task.notes or task.notes[key] != value:
            then.events.append(TaskNoted(task=command.task, run=run.id, key=key, value=value))
    return then.events


def _cut_short(task: TaskState, run: Run) -> bool:
    """Whether the budget left the run less time than the plan gives it."""
    return run.allowed < seconds_allowed(task.spec, run.purpose)


def _unfit(spec: Task, result: Result) -> str:
    """Why nobody may build on this result; empty if it is what was declared."""
    why = misfit(result.data, spec.result_schema) if spec.result_schema is not None else ""
    return f"its data does not fit result_schema: {why}" if why else ""


def _forbidden(spec: Task, result: Result) -> Failure | None:
    """What it fails of, the gravest first: security findings that the task's result must not have."""
    least = spec.acceptance_criteria.findings_below
    grave = SEVERITIES[SEVERITIES.index(least) :] if least else ()
    found = [one for one in result.findings if one.kind == "security" and one.severity in grave]
    if not found:
        return None
    told = [
        f"{one.severity}: {':'.join(str(part) for part in (one.path, one.line) if part)} {one.message}"
        for one in sorted(found, key=lambda one: -SEVERITIES.index(one.severity))
    ]
    return Failure(
        "finding", f"a security finding, {told[0][:MESSAGE_CHARACTERS]}", "\n".join(told)[:DETAIL_CHARACTERS]
    )


def _verified(then: Consequences, task: TaskState, run: Run, command: ReportVerified) -> None:
    assert task.result is not None
    wanted = [test.cmd for test in task.spec.acceptance_criteria.tests]
    elsewhere = task.result.commit and any(receipt.commit != task.result.commit for receipt in command.receipts)
    if elsewhere or [receipt.cmd for receipt in command.receipts] != wanted:
        failure = Failure("sandbox", "the receipts are not of this task's tests on this task's commit")
        then.attempt_failed(task, run, failure, command.agent, spent=command.spent)
        return
    failed_before = frozenset(chain.from_iterable(task.red))
    receipts = tuple(
        msgspec.structs.replace(receipt, flaky=flaky) if receipt.flaky != flaky else receipt
        for n, receipt in enumerate(command.receipts)
        for flaky in [receipt.passed and n in failed_before]
    )
    failed = next((n for n, receipt in enumerate(receipts) if not receipt.passed), None)
    then.events.append(
        TaskVerified(
            task=command.task,
            run=run.id,
            agent=command.agent,
            passed=failed is None,
            receipts=receipts,
            usage=then.used(run, command.spent),
        )
    )
    if failed is not None:
        failure = _failure(then.state, task, failed, receipts[failed])
        if failure.type in MAY_BE_FLAKY and len(task.red) < task.spec.flaky_reruns:
            then.verify(task, task.result, task.agent)
        else:
            then.attempt_failed(task, run, failure, command.agent, receipts)
    elif "flaky_test" in task.spec.failure_routing and any(receipt.flaky for receipt in receipts):
        cmd = next(receipt.cmd for receipt in receipts if receipt.flaky)
        failure = Failure("flaky_test", f"`{cmd}` failed and then passed on the same commit")
        then.attempt_failed(task, run, failure, command.agent, receipts)
    else:
        then.accept(task, task.result, task.work, task.agent, receipts)


def _failure(state: Workflow, task: TaskState, n: int, receipt: Receipt) -> Failure:
    kind = classify(
        receipt.exit_code, receipt.timed_out, receipt.output, seconds=receipt.duration_seconds,
        limit_seconds=task.spec.acceptance_criteria.tests[n].timeout_seconds,
        told=[case.message for case in receipt.report.failed] if receipt.report else (),
        signs=((sign.type, sign.text, sign.exit_codes) for sign in state.signs),
    )  # fmt: skip
    how = "ran out of time" if receipt.timed_out else f"ended with exit code {receipt.exit_code}"
    return Failure(kind, f"`{receipt.cmd}` {how}", receipt.output[-4000:])


def _refusal(state: Workflow, command: Report, why: str = "") -> ReportRefused:
    task = state.tasks.get(command.task)
    if task is None:
        raise NotFound(f"workflow {state.id} has no task {command.task}")
    if not why:
        why = f"the task is {task.status}" + (f", run {task.run.id} holds the lease" if task.run else "")
    kind = type(command).__name__.removeprefix("Report").lower()
    return ReportRefused(
        task=command.task, run=command.run, token=command.token, agent=command.agent, kind=kind, why=why
    )


def _expire(
    state: Workflow, command: Redispatch | ExpireLease | ExpireRun, held: tuple[TaskState, Run] | None
) -> list[WorkflowEvent]:
    if held is None:
        return []
    task, run = held
    then = Consequences(state, command.now)
    match command:
        case Redispatch():
            if run.agent is None:
                then.offer_again(task, run)
        case ExpireLease() if run.agent is not None:
            message = f"agent {run.agent} was not heard of for {state.lease_seconds:g} s"
            then.attempt_failed(task, run, Failure("agent_lost", message), run.agent)
        case ExpireRun() if run.agent is not None:
            message = f"run {run.id} took longer than {run.allowed:g} s"
            short = _cut_short(task, run)
            failure = Failure("budget", f"{message}, its part of the budget") if short else Failure("timeout", message)
            then.attempt_failed(task, run, failure, run.agent)
    return then.events


def _restore(state: Workflow, command: Restore) -> list[WorkflowEvent]:
    """Whoever holds a lease may have gone on in the life that is given up, so every run that is out is offered anew."""
    if state.status not in ("queued", "running"):
        return []
    tokens = state.tokens + command.skipped
    moved = msgspec.structs.replace(state, tokens=tokens, repository=command.repository)
    then = Consequences(moved, command.now)
    then.events.append(
        WorkflowRestored(workflow=state.id, tokens=tokens, repository=command.repository, at=command.now)
    )
    for task in state.tasks.values():
        if task.run is not None:
            then.offer_again(task, task.run)
    return then.events
