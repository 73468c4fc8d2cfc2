"""Every metric there is: what it is called, what kind it is of, its labels and its unit, and what it counts.

`docs/metrics.md` is made of this table, and so is what Prometheus is told. A label never holds an id: its values are
words of ours, or names of roles and models, which users choose and of which so many are told apart (`NAMES`).
"""

from typing import Literal, NamedTuple, get_args

from domain.events import AskKind
from projections.recovery_fold import Kind as Wait

NAMES = 50
"""So many roles, and as many models, have a series of their own: those that the ledger named first."""
OTHER = "other"
"""The role, or the model, of all the rest."""

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["ledger", "now", "process"]
"""`ledger`: folded from the events by the view `metrics`; `now`: asked at the scrape; `process`: of the server asked,
from its start on."""

WAIT_BOUNDS = (0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600)
TASK_BOUNDS = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400)
WORKFLOW_BOUNDS = (1, 5, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400, 86_400)
"""Whole seconds: the ledger's figures have the target of the SLA among them too, whatever it is."""
ENDINGS = ("completed", "failed", "cancelled", "timed_out")
HTTP_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Figure(NamedTuple):
    """One metric, by the name of its family; a counter's samples end in `_total`, which its name has too."""

    name: str
    kind: Kind
    source: Source
    unit: str
    labels: tuple[str, ...]
    about: str
    bounds: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    """Of its only label: those that are told from the start on, though nothing was counted yet."""

    @property
    def scale(self) -> float:
        """The ledger's figures are kept in whole numbers: microseconds, billionths of a dollar, hundredths of a
        percent."""
        return {"seconds": 1e-6, "usd": 1e-9, "percent": 0.01}.get(self.unit, 1) if self.source == "ledger" else 1


_ALL = (
    Figure("cairn_events_total", "counter", "ledger", "events", ("type",),
           "Events recorded; those of other applications of the ledger are of the type `foreign`."),
    Figure("cairn_workflows_total", "counter", "ledger", "workflows", ("outcome",),
           "Workflows that ended: completed, failed, cancelled, timed_out.",
           values=ENDINGS),
    Figure("cairn_workflow_duration_seconds", "histogram", "ledger", "seconds", ("outcome",),
           "From a workflow's submission to its end. One of the buckets ends at `sla_seconds`.", WORKFLOW_BOUNDS),
    Figure("cairn_workflows_within_sla_total", "counter", "ledger", "workflows", (),
           "Workflows that completed within `sla_seconds`, of all that ever did: where the setting changes, it is "
           "counted anew over the whole past."),
    Figure("cairn_tasks_total", "counter", "ledger", "tasks", ("role", "outcome"),
           "Tasks that ended, branches among them: completed, failed, cancelled, skipped, excused."),
    Figure("cairn_task_duration_seconds", "histogram", "ledger", "seconds", ("role", "outcome"),
           "From a task's first dispatch to its end: all its attempts, its tests, its branches and who was asked.",
           TASK_BOUNDS),
    Figure("cairn_attempts_total", "counter", "ledger", "attempts", ("role", "outcome"),
           "Runs that ended, those of tests as the tester's: succeeded (a result or receipts came, whatever the tests "
           "say then), asked (a person), failed, lost, timed_out, cancelled."),
    Figure("cairn_retries_total", "counter", "ledger", "attempts", ("role",),
           "Attempts that were scheduled because one before had failed."),
    Figure("cairn_branches_total", "counter", "ledger", "tasks", ("role",),
           "Branch tasks that were made to mend a failure, by the role that mends."),
    Figure("cairn_task_wait_seconds", "histogram", "ledger", "seconds", ("role",),
           "From when a run could begin (held, queued or dispatched) to when an agent of the role began it.",
           WAIT_BOUNDS),
    Figure("cairn_verifications_total", "counter", "ledger", "runs", ("role", "outcome"),
           "Runs of acceptance tests that ended with receipts, by the role of the task they judged: passed, failed."),
    Figure("cairn_findings_total", "counter", "ledger", "findings", ("kind", "severity"),
           "What agents said is wrong, with their results: security, lint, type, test, other."),
    Figure("cairn_coverage_percent", "gauge", "ledger", "percent", ("role",),
           "Lines that tests covered, as the last of their runs that measured it said, by the role of the task."),
    Figure("cairn_asks_total", "counter", "ledger", "asks", ("kind", "outcome"),
           "What people were asked, once it is closed: answered, expired, voided."),
    Figure("cairn_tokens_total", "counter", "ledger", "tokens", ("role", "model", "kind"),
           "Tokens that agents told of: input (neither from a cache nor into one), cache_read, cache_write, output. "
           "Told at a run's end; numbers that come later are added, and never taken off."),
    Figure("cairn_cost_usd_total", "counter", "ledger", "usd", ("role", "model"),
           "What that cost, as told or by the workflow's prices; later numbers as above."),
    Figure("cairn_usage_unknown_total", "counter", "ledger", "attempts", ("role",),
           "Attempts at a task that ended, and nobody had told how many tokens they took."),
    Figure("cairn_audit_verified_position", "gauge", "ledger", "position", (),
           "Up to here the digest chain was found to be as it was recorded."),
    Figure("cairn_audit_last_success_timestamp_seconds", "gauge", "ledger", "seconds", (),
           "When that was, in seconds since the epoch. None before the first time."),
    Figure("cairn_audit_failures_total", "counter", "ledger", "audits", (),
           "Audits that found a position which is not as it was recorded."),
    Figure("cairn_ledger_position", "gauge", "now", "position", (), "The last position."),
    Figure("cairn_projection_lag_events", "gauge", "now", "events", ("view",),
           "Events that are recorded and not in the view."),
    Figure("cairn_projection_halted", "gauge", "now", "1", ("view",),
           "1 if the view holds an event that it cannot fold, and stands before it."),
    Figure("cairn_relay_backlog_events", "gauge", "process", "events", (),
           "Events that are recorded and not in JetStream, as far as this server knows."),
    Figure("cairn_workflows_open", "gauge", "now", "workflows", ("status",),
           "Workflows that are under way: queued, running, waiting (for a person), paused.",
           values=("queued", "running", "waiting", "paused")),
    Figure("cairn_waits", "gauge", "now", "tasks", ("kind",), "Open tasks by what they wait on.",
           values=get_args(Wait)),
    Figure("cairn_orphans", "gauge", "now", "tasks", (),
           "Open tasks that wait on nothing, or on what will not come: always 0."),
    Figure("cairn_queue_depth", "gauge", "now", "runs", ("role",),
           "Runs that could begin and wait for an agent of the role, or for a slot."),
    Figure("cairn_oldest_wait_seconds", "gauge", "now", "seconds", ("kind",),
           "How long the open task that waits longest has waited: for a slot or an agent (slot), a person (ask), the "
           "end of its run (lease). 0 where none does.", values=("slot", "ask", "lease")),
    Figure("cairn_asks_pending", "gauge", "now", "asks", ("kind",), "What people are asked and have not answered.",
           values=get_args(AskKind)),
    Figure("cairn_agents", "gauge", "now", "agents", ("role", "status"),
           "Agents that have not left: here, drained (takes no more work), lost."),
    Figure("cairn_agent_silent_seconds", "gauge", "now", "seconds", ("role",),
           "For how long the longest-silent agent of the role was not heard of, of those that have not left."),
    Figure("cairn_budget_used_ratio", "gauge", "now", "ratio", (),
           "The highest share that is used of any limit (tokens, dollars, seconds, attempts; of a workflow, a role, a "
           "task) of any workflow under way. 0 where none has a budget."),
    Figure("cairn_budget_workflows", "gauge", "now", "workflows", ("level",),
           "Workflows under way that have used so many percent of one of their limits, or more: 80, 100."),
    Figure("cairn_sla_target_seconds", "gauge", "process", "seconds", (), "The setting `sla_seconds`."),
    Figure("cairn_build_info", "gauge", "process", "1", ("version",), "The program that runs here: always 1."),
    Figure("cairn_http_requests_total", "counter", "process", "requests", ("route", "method", "status"),
           "Requests answered, by the pattern of the route. `unmatched` is no route of ours; status 499: the client "
           "left before the answer."),
    Figure("cairn_http_request_duration_seconds", "histogram", "process", "seconds", ("route",),
           "Time to the answer, of whole answers: not of what is followed.", HTTP_BOUNDS),
    Figure("cairn_dead_letters_total", "counter", "now", "messages", (),
           "Messages of agents that could not be read, ever (`cairn letters`). None while NATS does not answer."),
    Figure("cairn_log_lines_total", "counter", "process", "lines", ("level",), "Lines of the log, by level.",
           values=("debug", "info", "warning", "error", "critical")),
    Figure("cairn_stream_clients", "gauge", "process", "clients", (), "Who follows events here just now."),
)  # fmt: skip

FIGURES = {figure.name: figure for figure in _ALL}
LEDGER = {name: figure for name, figure in FIGURES.items() if figure.source == "ledger"}
