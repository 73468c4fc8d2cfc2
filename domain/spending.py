"""What is decided about usage and budgets: calls, corrections, raises."""

from domain.commands import RaiseBudget, ReportReserve, ReportSettle, ReportUsage
from domain.consequences import Consequences
from domain.errors import Refused
from domain.events import (
    AskAnswered,
    AskExpired,
    BudgetRaised,
    CallReserved,
    CallSettled,
    UsageCorrected,
    WorkflowEvent,
)
from domain.outcome import Failure
from domain.state import LATE, Run, TaskState, Workflow
from domain.usage import usage


def called(then: Consequences, run: Run, command: ReportReserve | ReportSettle) -> list[WorkflowEvent] | str:
    """What a call leads to, or why it is refused. Without a budget any is let through, and nothing is recorded of it."""
    books, name = then.books, command.task
    hold = books.holds.get(name) if books else None
    if books is None or hold is None:
        return []
    match command:
        case ReportReserve(call=call) if call not in hold.calls:
            amount = books.call(name, command.tokens, command.usd)
            if isinstance(amount, str):
                return amount
            return [CallReserved(task=name, run=run.id, call=call, tokens=amount.tokens, usd=amount.usd)]
        case ReportSettle(call=call, spent=spent) if call in hold.calls:
            usd = usage(spent, 0.0, then.state.prices).cost_usd
            return [CallSettled(task=name, run=run.id, call=call, tokens=spent.tokens, usd=usd)]
    return []


def corrected(state: Workflow, command: ReportUsage) -> list[WorkflowEvent] | str:
    """Of a run that is out or has ended, told by the agent that held it; or why that is refused."""
    task = state.tasks.get(command.task)
    run = next((one for one in task.runs if one.id == command.run), None) if task else None
    if task is None or run is None or (run.token, run.agent) != (command.token, command.agent):
        return f"{command.agent} does not hold run {command.run}, and did not"
    if why := run.foreign(command.agent, command.role):
        return why
    ended = run is not task.run
    seconds = run.usage.seconds if ended and run.usage else command.now - run.began
    now = usage(command.spent, seconds, state.prices)
    if ended and now == run.usage:
        return []
    return [UsageCorrected(task=command.task, run=run.id, was=run.usage, now=now, why=command.why, role=run.role)]


def answered(then: Consequences, task: TaskState, said: AskAnswered | AskExpired) -> None:
    """A person has added to a budget what the ask has shown, or has not, or nobody has answered."""
    assert then.books is not None
    if isinstance(said, AskExpired):
        then.fail(task, Failure("budget", LATE))
    elif said.choice != "raise":
        then.fail(task, Failure("budget", said.because or f"{said.by} gave no more budget"))
    else:
        for scope, amount in then.books.raises[said.ask].items():
            then.events.append(BudgetRaised(scope=scope, amount=amount, by=said.by, because=said.because))
        then.dispatch(task)
        _resume(then, said.by)


def raised(state: Workflow, command: RaiseBudget) -> list[WorkflowEvent]:
    if state.status != "running":
        raise Refused(f"workflow {state.id} is {state.status}: nothing is left to spend a budget on")
    accounts = state.books.accounts if state.books else {}
    account = accounts.get(command.scope)
    if account is None:
        known = ", ".join(accounts) or "none"
        raise Refused(f"{command.scope} has no budget that could be raised; those that do: {known}")
    for kind in command.amount.__struct_fields__:
        if getattr(command.amount, kind) is not None and getattr(account.limit, kind) is None:
            raise Refused(f"the budget of {command.scope} does not limit {kind}: there is nothing to raise")
    then = Consequences(state, command.now)
    then.events.append(BudgetRaised(scope=command.scope, amount=command.amount, by=command.by, because=command.because))
    _resume(then, command.by)
    return then.events


def _resume(then: Consequences, by: str) -> None:
    """Whoever waits for a budget that has room again by now goes on, and needs no answer of its own."""
    settled = {event.ask for event in then.events if isinstance(event, AskAnswered)}
    for name, ask in then.state.asks.items():
        task = then.state.tasks[ask.task]
        if ask.kind != "budget" or task.ask != name or name in settled:
            continue
        if then.books is not None and not then.books.short(ask.task):
            because = "the budget was raised"
            then.events.append(
                AskAnswered(ask=name, task=ask.task, choice="raise", by=by, because=because, at=then.now)
            )
            then.dispatch(task)
