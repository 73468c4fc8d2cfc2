"""The books of a workflow that has budgets: what may be used, what is reserved, what was used, and by whom.

A budget belongs to a *scope*: `workflow`, `role/<role>` or `task/<id>`, whose branches it covers too. An attempt holds a
part of each scope that it is in: what is left there, shared among the tasks that are still open. A call that needs more
than its attempt holds takes it from what is left; if that is not enough, it does not fit. When the attempt ends, what
it used is counted and the rest is free again. Tokens or money that nobody tells are counted as they were reserved.

Accounts and holds are never changed but replaced, so that a decision can go on in a copy.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from domain.events import (
    AskOpened,
    AttemptFailed,
    BudgetRaised,
    CallReserved,
    CallSettled,
    TaskAdded,
    TaskAsked,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskExcused,
    TaskFailed,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    UsageCorrected,
    WorkflowEvent,
)
from domain.plan import Budget, Plan, Task
from domain.usage import Usage

SMALLEST = 1e-6
ENDS_ATTEMPT = TaskReported | TaskAsked | TaskCompleted | AttemptFailed | TaskCancelled | TaskExcused
"""Of dollars and seconds: less is nothing."""
UNLIMITED = Budget()
KINDS = ("tokens", "usd", "seconds")


class Amount(msgspec.Struct, frozen=True, omit_defaults=True):
    tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, more: "Amount") -> "Amount":
        return Amount(
            self.tokens + more.tokens, round(self.usd + more.usd, 9), round(self.seconds + more.seconds, 3)
        )  # fmt: skip

    def __sub__(self, less: "Amount") -> "Amount":
        return self + Amount(-less.tokens, -less.usd, -less.seconds)

    def __or__(self, other: "Amount") -> "Amount":
        """Of each kind the larger one."""
        return Amount(max(self.tokens, other.tokens), max(self.usd, other.usd), max(self.seconds, other.seconds))


NOTHING = Amount()


class Account(msgspec.Struct, frozen=True, omit_defaults=True):
    """One scope's: its limit and how much a raise adds, the open tasks in it and the runs that hold a part of it."""

    limit: Budget
    step: Budget
    tasks: int = 0
    runs: int = 0
    attempts: int = 0
    used: Amount = NOTHING
    held: Amount = NOTHING

    def left(self, kind: str) -> float | None:
        """What nobody has used or reserved; None if it is not limited."""
        limit: float | None = getattr(self.limit, kind)
        if limit is None:
            return None
        if kind == "attempts":
            return limit - self.attempts
        gone = self.used + self.held
        return round(limit - float(getattr(gone, kind)), 9)

    @property
    def short(self) -> list[str]:
        """Of what nothing is left."""
        return [kind for kind in (*KINDS, "attempts") if (left := self.left(kind)) is not None and left < SMALLEST]


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run has reserved (`granted`), what its settled calls used of it, and the calls that are under way."""

    run: str
    granted: Amount
    used: Amount = NOTHING
    calls: dict[str, Amount] = {}

    @property
    def taken(self) -> Amount:
        return sum(self.calls.values(), self.used)


class Books(msgspec.Struct):
    """`scopes` and `holds` by task, `counted` by run that has ended, with where; `raises` by ask: what it adds."""

    accounts: dict[str, Account]
    scopes: dict[str, tuple[str, ...]] = {}
    holds: dict[str, Hold] = {}
    counted: dict[str, tuple[Amount, tuple[str, ...]]] = {}
    raises: dict[str, dict[str, Budget]] = {}

    def copy(self) -> "Books":
        return Books(dict(self.accounts), self.scopes.copy(), self.holds.copy(), self.counted, self.raises)

    def of(self, task: str) -> dict[str, Account]:
        return {scope: self.accounts[scope] for scope in self.scopes.get(task, ())}

    def short(self, task: str) -> bool:
        """Whether nothing is left for an attempt at it."""
        return any(account.short for account in self.of(task).values())

    def share(self, task: str, seconds: float) -> Amount:
        """What an attempt of at most so many seconds reserves: of kinds that are not limited nothing."""
        shares: dict[str, float] = {}
        for scope, account in self.of(task).items():
            among = 1 if scope.startswith("task/") else max(account.tasks - account.runs, 1)
            for kind in KINDS:
                if (left := account.left(kind)) is not None:
                    part = -(-int(left) // among) if kind == "tokens" else max(round(left / among, 6), SMALLEST)
                    shares[kind] = min(part, shares.get(kind, part))
        if "seconds" in shares:
            shares["seconds"] = max(round(min(shares["seconds"], seconds), 3), 0.001)
        return Amount(**shares)  # type: ignore[arg-type]

    def granted(self, task: str, amount: Amount) -> Budget | None:
        """The kinds of it that are limited, as a dispatch tells them."""
        limited = {kind for account in self.of(task).values() for kind in KINDS if account.left(kind) is not None}
        return Budget(**{kind: getattr(amount, kind) for kind in limited}) if limited else None

    def call(self, task: str, tokens: int | None, usd: float | None) -> Amount | str:
        """What a call reserves, or why it does not fit. One that does not say how much it takes reserves all that its
        attempt still holds, or all that is left: no other fits beside it."""
        hold, accounts = self.holds[task], self.of(task)
        asked: dict[str, Any] = {}
        for kind, said in (("tokens", tokens), ("usd", usd)):
            lefts = [left for account in accounts.values() if (left := account.left(kind)) is not None]
            if lefts:
                own = getattr(hold.granted, kind) - getattr(hold.taken, kind)
                asked[kind] = said if said is not None else own if own >= SMALLEST else max(min(lefts), 0)
                if said is None and asked[kind] < SMALLEST:
                    return f"nothing is left of the {kind} that run {hold.run} may use"
        wanted = Amount(**asked)
        more = (hold.taken + wanted | hold.granted) - hold.granted
        for scope, account in accounts.items():
            for kind in asked:
                left, limit = account.left(kind), getattr(account.limit, kind)
                if left is not None and getattr(more, kind) > left + SMALLEST:
                    free = left + getattr(hold.granted - hold.taken, kind)
                    what = f"a call of {getattr(wanted, kind):g} {kind} does not fit"
                    return f"{what}: {max(free, 0):g} of the {limit:g} of {scope} are left for it"
        return wanted

    def proposal(self, task: str) -> dict[str, Budget]:
        """By scope, what to add so that it can go on: of what is short, else of what is the shortest, as much as there
        was in the beginning."""
        accounts = self.of(task)
        short = {scope: account.short for scope, account in accounts.items() if account.short}
        if not short:
            rest = [
                (left / getattr(account.limit, kind), scope, kind)
                for scope, account in accounts.items()
                for kind in KINDS
                if (left := account.left(kind)) is not None
            ]
            short = {scope: [kind] for _, scope, kind in sorted(rest)[:1]}
        return {
            scope: Budget(**{kind: getattr(accounts[scope].step, kind) for kind in kinds})
            for scope, kinds in short.items()
        }


def opened(plan: Plan) -> Books | None:
    """None for a plan without budgets: nothing is kept for it."""
    limits = {f"task/{task.id}": task.budget for task in plan.tasks if task.budget != UNLIMITED}
    limits |= {f"role/{role}": limit for role, limit in plan.role_budgets.items() if limit != UNLIMITED}
    limits |= {"workflow": plan.budget} if plan.budget != UNLIMITED else {}
    if not limits:
        return None
    books = Books({scope: Account(limit, limit) for scope, limit in limits.items()})
    for task in plan.tasks:
        _join(books, task.id, task.agent_role, (f"task/{task.id}",))
    return books


def book(books: Books, event: WorkflowEvent) -> None:
    match event:
        case TaskDispatched(task=task, run=run, purpose="work", budget=budget):
            again = task in books.holds and books.holds[task].run == run
            _release(books, task, books.holds[task].taken if task in books.holds else NOTHING)
            granted = Amount(budget.tokens or 0, budget.usd or 0.0, budget.seconds or 0.0) if budget else NOTHING
            books.holds[task] = Hold(run, granted)
            for scope, one in books.of(task).items():
                attempts = one.attempts + (not again)
                books.accounts[scope] = replace(one, attempts=attempts, runs=one.runs + 1, held=one.held + granted)
        case CallReserved(task=task, call=call, tokens=tokens, usd=usd) if task in books.holds:
            hold = books.holds[task]
            _hold(books, task, replace(hold, calls={**hold.calls, call: Amount(tokens, usd)}))
        case CallSettled(task=task, call=call, tokens=tokens, usd=usd) if task in books.holds:
            hold = books.holds[task]
            reserved = hold.calls.get(call, NOTHING)
            spent = Amount(reserved.tokens if tokens is None else tokens, reserved.usd if usd is None else usd)
            calls = {name: amount for name, amount in hold.calls.items() if name != call}
            _hold(books, task, replace(hold, calls=calls, used=hold.used + spent))
        case UsageCorrected(run=run, now=now) if run in books.counted:
            was, scopes = books.counted[run]
            counted = Amount(was.tokens if now.tokens is None else now.tokens,
                             was.usd if now.cost_usd is None else now.cost_usd, was.seconds)  # fmt: skip
            books.counted = {**books.counted, run: (counted, scopes)}
            for scope, one in [(scope, books.accounts[scope]) for scope in scopes]:  # the task may have changed roles
                books.accounts[scope] = replace(one, used=one.used + counted - was)
        case TaskBranched(task=task, branch=branch):
            _join(books, branch.id, branch.agent_role, _above(books, task))
        case TaskRerouted(task=task, role=role) | TaskEdited(task=task, spec=Task(agent_role=role)):
            _move(books, task, role)
        case TaskAdded(task=task, spec=spec):
            if spec.budget != UNLIMITED:
                books.accounts[f"task/{task}"] = Account(spec.budget, spec.budget)
            _join(books, task, spec.agent_role, (f"task/{task}",))
        case BudgetRaised(scope=scope, amount=amount) if scope in books.accounts:
            account = books.accounts[scope]
            books.accounts[scope] = replace(account, limit=_sum(account.limit, amount))
        case AskOpened(ask=ask, kind="budget", content=content):
            books.raises = {**books.raises, ask: msgspec.convert(content["raise"], dict[str, Budget])}
    if isinstance(event, ENDS_ATTEMPT) and event.usage:
        _settle(books, event.task, event.usage)
    if isinstance(event, TaskCompleted | TaskFailed | TaskSkipped | TaskCancelled | TaskExcused):
        _leave(books, event.task)


def _join(books: Books, task: str, role: str, above: tuple[str, ...]) -> None:
    wanted = ("workflow", f"role/{role}", *above)
    books.scopes[task] = tuple(scope for scope in wanted if scope in books.accounts)
    for scope, one in books.of(task).items():
        books.accounts[scope] = replace(one, tasks=one.tasks + 1)


def _above(books: Books, task: str) -> tuple[str, ...]:
    """The scopes of tasks that it is in: its own, and those of the tasks that it mends."""
    return tuple(scope for scope in books.scopes.get(task, ()) if scope.startswith("task/"))


def _move(books: Books, task: str, role: str) -> None:
    _leave(books, task)
    _join(books, task, role, _above(books, task))


def _leave(books: Books, task: str) -> None:
    for scope, one in books.of(task).items():
        books.accounts[scope] = replace(one, tasks=one.tasks - 1)


def _hold(books: Books, task: str, hold: Hold) -> None:
    """A run that has taken more than it held holds that much from then on."""
    grown = hold.granted | hold.taken
    for scope, one in books.of(task).items():
        books.accounts[scope] = replace(one, held=one.held + grown - hold.granted)
    books.holds[task] = replace(hold, granted=grown)


def _settle(books: Books, task: str, usage: Usage) -> None:
    """What is unknown counts as what its calls took, or as all that was reserved if it made none."""
    if (hold := books.holds.get(task)) is None:
        return
    unknown = hold.taken if hold.used != NOTHING or hold.calls else hold.granted
    spent = Amount(
        unknown.tokens if usage.tokens is None else max(usage.tokens, hold.used.tokens),
        unknown.usd if usage.cost_usd is None else max(usage.cost_usd, hold.used.usd),
        usage.seconds,
    )
    books.counted = {**books.counted, hold.run: (spent, books.scopes.get(task, ()))}
    _release(books, task, spent)


def _release(books: Books, task: str, spent: Amount) -> None:
    if (hold := books.holds.pop(task, None)) is None:
        return
    for scope, one in books.of(task).items():
        books.accounts[scope] = replace(one, runs=one.runs - 1, held=one.held - hold.granted, used=one.used + spent)


def _sum(limit: Budget, more: Budget) -> Budget:
    """What is not limited stays so."""
    kinds = [(kind, getattr(limit, kind), getattr(more, kind) or 0) for kind in (*KINDS, "attempts")]
    return Budget(**{kind: was + added for kind, was, added in kinds if was is not None})
