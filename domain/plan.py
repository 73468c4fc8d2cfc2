"""The plan (TodoList JSON): what a user writes, and the tasks it is made of.

The descriptions and limits below are the single source of `schemas/plan.schema.json` and of every check of a plan's
shape in `domain/validate.py`. Limits given through `extra_json_schema` are checked there and not when decoding: they
hold for what people write, while branch tasks, which the workflow's rules create, have ids such as `indicators.fix1`.
The file is long because a plan is one document: all that can stand in it is described here.
"""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, field

from domain.failures import FAILURE_TYPES, FailureType
from domain.outcome import Severity

ROLES: tuple[str, ...] = (
    "planner",
    "researcher",
    "architect",
    "coder",
    "tester",
    "debugger",
    "reviewer",
    "writer",
    "devops",
)
"""The built-in roles; `Plan.roles` adds others."""

# Python's "$" also matches before a last newline, hence "(?!\n)": ids become subjects, branches and file names.
ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}(?!\n)$"
RELATIVE_PATH_PATTERN = r"^(?!/)(?!(.*/)?\.\.(/|$))[^\\\n]+(?!\n)$"
RESOURCE_PATTERN = r"^[a-z0-9][a-z0-9._:/-]{0,99}(?!\n)$"
MOST_RESOURCES = 16
LONGEST_SECONDS = 30 * 24 * 3600

Id = Annotated[
    str,
    Meta(
        description='1 to 63 of a-z, 0-9, "_" and "-", starting with a letter or digit; "." is kept for generated ids.',
        extra_json_schema={"pattern": ID_PATTERN},
    ),
]
RelativePath = Annotated[
    str,
    Meta(
        description='A relative path, parts divided by "/", without "..".',
        extra_json_schema={"pattern": RELATIVE_PATH_PATTERN},
    ),
]
Resource = Annotated[
    str,
    Meta(
        description='What only one task at a time may use, as "repo:x": at most 100 of a-z, 0-9, ".", "_", ":", "/", "-".',
        extra_json_schema={"pattern": RESOURCE_PATTERN},
    ),
]
_UNIQUE = {"uniqueItems": True}
Timeout = Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)]
Delay = Annotated[float, Meta(ge=0, le=LONGEST_SECONDS)]
Person = Annotated[
    str, Meta(description="As people name themselves when they answer.", extra_json_schema={"pattern": r"\S"})
]
CAPABILITY_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,30}(?!\n)$"
MOST_CAPABILITIES = 4
"""Of an agent, and of what a task needs: there is a queue for each set that an agent can serve, 16 at most."""
Capabilities = Annotated[
    tuple[Annotated[str, Meta(extra_json_schema={"pattern": CAPABILITY_PATTERN})], ...],
    Meta(max_length=MOST_CAPABILITIES, extra_json_schema=_UNIQUE),
]
Metadata = Annotated[dict[str, Any], Meta(description="Anything else worth keeping; not interpreted.")]


class Test(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One acceptance test: a command run in the sandbox, in the task's worktree; exit code 0 is a pass."""

    __test__: ClassVar[bool] = False  # pytest takes any imported class named Test... for a suite

    cmd: Annotated[str, Meta(description="Shell command; must not be blank.", extra_json_schema={"pattern": r"\S"})]
    timeout_seconds: Annotated[Timeout, Meta(description="Seconds after which the command is killed.")] = 300.0
    junit: Annotated[
        RelativePath | None,
        Meta(description="Where the command leaves its JUnit report, in the worktree; it tells why a test failed."),
    ] = None
    coverage: Annotated[
        RelativePath | None,
        Meta(
            description="Where the command leaves its coverage report, in the worktree: Cobertura XML, or the JSON of "
            "`coverage json`."
        ),
    ] = None


class AcceptanceCriteria(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What must hold before a task counts as completed."""

    tests: Annotated[tuple[Test, ...], Meta(description="Run in this order; the task is accepted when all pass.")] = ()
    findings_below: Annotated[
        Severity | None,
        Meta(
            description="A result with a security finding of this severity, or a graver one, is not accepted: the attempt "
            "fails as a `finding`."
        ),
    ] = None


class Retry(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Exponential backoff between the attempts of a task."""

    initial_seconds: Annotated[Delay, Meta(description="Seconds before the second attempt.")] = 1.0
    factor: Annotated[float, Meta(ge=1, le=100, description="Each further delay is this many times the last.")] = 2.0
    max_seconds: Annotated[Delay, Meta(description="No delay is longer, in seconds.")] = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1, description="Part of each delay that is random, 0 to 1.")] = 0.1


class Route(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What follows a failure of one type. Where it cannot be done (no attempts, no branches left), the next best is."""

    do: Annotated[
        Literal["retry", "route", "branch", "ask", "fail"],
        Meta(
            description="retry: another attempt; route: the attempts from now on go to `role`; branch: `role` mends it "
            "first; ask: a person says how it goes on; fail: the task is over."
        ),
    ]
    role: Annotated[str | None, Meta(description="To whom, for route and branch.")] = None
    retry: Annotated[Retry | None, Meta(description="Backoff of its own, for retry and route.")] = None


class FailureSign(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """By what a failed acceptance test is known to be of this type: what it prints, how it ends, or both together."""

    type: Annotated[FailureType, Meta(description="What it is then.")]
    text: Annotated[str, Meta(description="Stands in the output or the report, letter by letter.")] = ""
    exit_codes: Annotated[tuple[int, ...], Meta(description="It ends with one of these.")] = ()


class Budget(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """How much may be used; what is left out is not limited. Reserved before it is spent, so a limit is hard."""

    tokens: Annotated[
        Annotated[int, Meta(gt=0, le=2**53)] | None, Meta(description="Of models, read and written together.")
    ] = None
    usd: Annotated[Annotated[float, Meta(gt=0, le=1e9)] | None, Meta(description="Money, in US dollars.")] = None
    seconds: Annotated[Timeout | None, Meta(description="Working time of the attempts, added up.")] = None
    attempts: Annotated[
        Annotated[int, Meta(gt=0, le=1_000_000)] | None, Meta(description="Attempts, also of agents that were lost.")
    ] = None


class Task(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One piece of work for one agent. The last four fields are what a branch (a fix of a failed task) carries."""

    id: Id
    title: Annotated[str, Meta(description="One line for people.")] = ""
    description: Annotated[str, Meta(description="What the agent is told to do.")] = ""
    agent_role: Annotated[
        str,
        Meta(description='Role of the agent that does it: built in, or listed in "roles".', examples=list(ROLES)),
    ] = "coder"
    capabilities: Annotated[
        Capabilities,
        Meta(description="What an agent of the role must have besides to be given it.", examples=[["python", "gpu"]]),
    ] = ()
    dependencies: Annotated[
        tuple[str, ...],
        Meta(description="Ids of the tasks that must be completed first.", extra_json_schema=_UNIQUE),
    ] = ()
    acceptance_criteria: Annotated[AcceptanceCriteria, Meta(description="When the work is accepted.")] = (
        AcceptanceCriteria()
    )
    timeout_seconds: Annotated[Timeout, Meta(description="Seconds one attempt may take.")] = 1800.0
    total_seconds: Annotated[
        Timeout | None,
        Meta(
            description="Seconds that the task may take with all its attempts and branches, from its first dispatch; "
            "waiting for a person or a slot does not count."
        ),
    ] = None
    max_attempts: Annotated[int, Meta(ge=1, le=100, description="Attempts in all, the first included.")] = 3
    retry: Annotated[Retry, Meta(description="How long to wait between attempts.")] = Retry()
    failure_routing: Annotated[
        dict[str, str | Route],
        Meta(
            description="Failure type to what follows it: a route, or short for a branch, the role that is to mend it.",
            extra_json_schema={"propertyNames": {"enum": list(FAILURE_TYPES)}},
        ),
    ] = {}
    max_debug_attempts: Annotated[
        int, Meta(ge=0, le=100, description="Debug branches it may open, and each of these.")
    ] = 2
    max_branch_depth: Annotated[
        int,
        Meta(
            ge=0,
            le=8,
            description="How deep branches may branch, which they do when they fail or do not mend it; 0: never.",
        ),
    ] = 1
    flaky_reruns: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Times that failed acceptance tests are run again on the same commit. If they pass then, they "
            "are flaky: the task is accepted and its receipts say so, unless failure_routing has a flaky_test.",
        ),
    ] = 0
    result_schema: Annotated[
        dict[str, Any] | None,
        Meta(
            description="What the data of its result has to look like, as a subset of JSON Schema: type, properties, "
            "required, additionalProperties, items, enum and the limits of numbers and lengths."
        ),
    ] = None
    approval: Annotated[
        tuple[Literal["before_dispatch", "before_completion"], ...],
        Meta(description="When a person must approve.", extra_json_schema=_UNIQUE),
    ] = ()
    budget: Annotated[Budget, Meta(description="What it may use in all, its branches included.")] = Budget()
    priority: Annotated[int, Meta(ge=-1000, le=1000, description="Of tasks that are ready, higher goes first.")] = 0
    resources: Annotated[
        tuple[Resource, ...],
        Meta(
            description="What no other task of any workflow may use while an agent works on this one.",
            extra_json_schema={**_UNIQUE, "maxItems": MOST_RESOURCES},
        ),
    ] = ()
    inputs: Annotated[dict[str, Any], Meta(description="Values handed to the agent as they are.")] = {}
    files: Annotated[tuple[RelativePath, ...], Meta(description="Files of the workspace the task is about.")] = ()
    metadata: Metadata = {}
    weight: Annotated[
        float, Meta(gt=0, le=1_000_000, description="How much of the progress of what it is part of it makes up.")
    ] = 1.0
    group: Annotated[
        bool,
        Meta(
            description="It has no work of its own: it completes when its dependencies have, after its tests, if any; "
            "only if these fail an agent is asked."
        ),
    ] = False
    parent_id: Annotated[
        str | None,
        Meta(
            description="Id of the task this one is part of: progress is rolled up by it, order is what "
            "`dependencies` says. Of a branch: the task it is to mend."
        ),
    ] = None
    branch_reason: Annotated[str | None, Meta(description="Why it branched.")] = None
    debug_instructions: Annotated[str | None, Meta(description="What the debugging agent is told.")] = None
    is_temporary: Annotated[bool, Meta(description="Whether the task goes away with its branch.")] = False


class Edit(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a task is told from now on, in place of what the plan says; None leaves it as it is."""

    description: str | None = None
    inputs: dict[str, Any] | None = None
    tests: tuple[Test, ...] | None = None


class Approvals(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How approvals are asked for."""

    due_seconds: Annotated[Timeout, Meta(description="Seconds after which the default is taken.")] = 7 * 86_400.0
    default: Annotated[Literal["approve", "reject"], Meta(description="Taken when nobody answers in time.")] = "reject"
    who: Annotated[
        tuple[Person, ...], Meta(description="Who may answer; none: anyone.", extra_json_schema=_UNIQUE)
    ] = ()


class Escalation(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who decides on a task for which everything was tried: it is retried, accepted, edited, reassigned, or fails."""

    due_seconds: Annotated[
        Delay, Meta(description="Seconds after which the default is taken; 0: at once, and nobody is asked.")
    ] = 86_400.0
    default: Annotated[
        Literal["fail", "accept"],
        Meta(description="Taken when nobody answers in time; what left no result cannot be accepted, and fails."),
    ] = "fail"
    who: Annotated[
        tuple[Person, ...], Meta(description="Who may answer; none: anyone.", extra_json_schema=_UNIQUE)
    ] = ()


class Plan(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A plan: tasks and what each of them needs before it can start."""

    schema_: Annotated[str | None, Meta(description="Address of this schema, for editors.")] = field(
        name="$schema", default=None
    )
    id: Id
    title: Annotated[str, Meta(description="One line for people.")] = ""
    objective: Annotated[str, Meta(description="What the plan is for; every agent is told.")] = ""
    tasks: Annotated[tuple[Task, ...], Meta(min_length=1, description="At least one; the order does not matter.")]
    roles: Annotated[
        tuple[Id, ...],
        Meta(description=f"Roles besides the built-in ones ({', '.join(ROLES)}).", extra_json_schema=_UNIQUE),
    ] = ()
    failure_signs: Annotated[
        tuple[FailureSign, ...],
        Meta(description="By what failed acceptance tests are told apart; read before the built-in signs."),
    ] = ()
    budget: Annotated[Budget, Meta(description="What all tasks may use together.")] = Budget()
    role_budgets: Annotated[
        dict[str, Budget], Meta(description="By role: what the tasks of its agents may use together.")
    ] = {}
    timeout_seconds: Annotated[
        Timeout | None,
        Meta(
            description="Seconds the workflow may take; time in which it is paused or a person is asked does not "
            "count. null: no limit."
        ),
    ] = 1800.0
    workspace: Annotated[
        RelativePath | None,
        Meta(description='Folder, relative to the plan file and without "..", that becomes the first commit.'),
    ] = None
    approvals: Annotated[Approvals, Meta(description="Deadline and default of approvals, and who gives them.")] = (
        Approvals()
    )
    escalation: Annotated[Escalation, Meta(description="What happens when everything was tried in vain.")] = (
        Escalation()
    )
    metadata: Metadata = {}
