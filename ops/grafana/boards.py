"""The dashboards. A panel takes a recording rule (`ops/prometheus/rules/recording.yml`) where there is one.

`python -m ops.schemas` writes their files.
"""

from ops.grafana.panel import Dashboard, Panel, document, stat

FOLDER = "ops/grafana/dashboards"
MINE = '{role=~"$role"}'

OVERVIEW = Dashboard("cairn-overview", "Cairn: overview", [
    stat("Servers that answer", 'sum(up{job="cairn", instance=~"$instance"})', "Targets that Prometheus can scrape."),
    stat("Alerts", 'count(ALERTS{alertname=~"Cairn.+", alertstate="firing"}) or vector(0)',
         "That fire now; each has a runbook.", alarming=1),
    stat("Workflows under way", 'sum(cairn_workflows_open{status="running"})', "Paused and waiting ones aside.",
         link="/?status=running"),
    stat("People are asked", "sum(cairn_asks_pending)", "Asks that are open.", link="/?status=waiting"),
    stat("Failed, last hour", "max(cairn:workflow_failures:ratio1h)", "Share of the workflows that ended.",
         "percentunit", alarming=0.2, link="/?status=failed"),
    stat("Spent, last hour", "sum(cairn:cost_usd:increase1h)", "As far as agents said what they used.", "currencyUSD"),
    Panel("Workflows", {"sum by (status) (cairn_workflows_open)": "{{status}}"}, "Those that have not ended.", width=12,
          link="/?status=${__field.labels.status}"),
    Panel("Workflows that ended, per hour", {"sum by (outcome) (increase(cairn_workflows_total[1h]))": "{{outcome}}"},
          "By how they ended.", width=12, link="/?status=${__field.labels.outcome}"),
    Panel("What tasks wait on", {"sum by (kind) (cairn_waits)": "{{kind}}"},
          "Each open task waits on exactly one thing: a dependency, a slot, a lease, a timer or a person."),
    Panel("Tasks that ended, per second", {"sum by (outcome) (cairn:tasks:rate5m)": "{{outcome}}"}, "By outcome."),
    Panel("Events per second", {"sum(cairn:events:rate5m)": "events"}, "What is recorded."),
])  # fmt: skip

AGENTS = Dashboard("cairn-agents", "Cairn: agents and roles", [
    Panel("Agents", {f"sum by (role, status) (cairn_agents{MINE})": "{{role}} {{status}}"}, "Those that have not left."),
    Panel("Silent for", {f"max by (role) (cairn_agent_silent_seconds{MINE})": "{{role}}"},
          "The agent of a role that was not heard of for longest.", "s", alarming=300),
    Panel("Ready, and not begun", {f"sum by (role) (cairn_queue_depth{MINE})": "{{role}}"}, "The queue of each role.",
          link="/?status=running"),
    Panel("Time to begin, 95th percentile", {f"max by (role) (cairn:task_wait_seconds:p95_1h{MINE})": "{{role}}"},
          "From ready to started, over an hour.", "s"),
    Panel("Time to do, 95th percentile", {f"max by (role) (cairn:task_duration_seconds:p95_1h{MINE})": "{{role}}"},
          "From dispatched to ended, all attempts, over an hour.", "s"),
    Panel("Tasks that ended, per second",
          {f"sum by (role, outcome) (cairn:tasks:rate5m{MINE})": "{{role}} {{outcome}}"}, "By role and outcome."),
    Panel("Attempts that failed", {f"max by (role) (cairn:attempt_failures:ratio1h{MINE})": "{{role}}"},
          "Share of those that ended within an hour: failed, lost or out of time.", "percentunit",
          link="/?status=failed"),
    Panel("Attempts tried again", {f"max by (role) (cairn:retries:ratio1h{MINE})": "{{role}}"},
          "Share of those that ended within an hour.", "percentunit", alarming=0.5),
    Panel("Branches, per hour", {f"sum by (role) (increase(cairn_branches_total{MINE}[1h]))": "{{role}}"},
          "Tasks that were made to mend another."),
], by_role=True)  # fmt: skip

SPEND = Dashboard("cairn-spend", "Cairn: spend", [
    stat("Spent, ever", "sum(cairn_cost_usd_total)", "As far as agents said what they used.", "currencyUSD"),
    stat("Spent, last hour", "sum(cairn:cost_usd:increase1h)", "The same.", "currencyUSD"),
    stat("Highest use of a budget", "max(cairn_budget_used_ratio)", "Of the workflows that are open.", "percentunit",
         alarming=0.8, link="/?status=running"),
    stat("Budgets from 80 %", 'sum(cairn_budget_workflows{level="80"})', "Open workflows.", link="/?status=running"),
    stat("Budgets used up", 'sum(cairn_budget_workflows{level="100"})', "Open workflows that wait for a person.",
         alarming=1, link="/?status=waiting"),
    stat("Attempts of unknown use", "sum(cairn_usage_unknown_total)", "Agents that did not say what they used."),
    Panel("Dollars per hour, by role", {"sum by (role) (cairn:cost_usd:increase1h)": "{{role}}"}, "Over the last hour.",
          "currencyUSD", width=12),
    Panel("Dollars per hour, by model", {"sum by (model) (cairn:cost_usd:increase1h)": "{{model}}"},
          "Over the last hour.", "currencyUSD", width=12),
    Panel("Tokens per hour, by model", {"sum by (model) (cairn:tokens:increase1h)": "{{model}}"}, "Of all kinds."),
    Panel("Tokens per hour, by kind", {"sum by (kind) (increase(cairn_tokens_total[1h]))": "{{kind}}"},
          "What is read from a cache costs less."),
    Panel("Dollars for a completed task",
          {'sum(cairn:cost_usd:increase1h) / (sum(increase(cairn_tasks_total{outcome="completed"}[1h])) > 0)': "task"},
          "What was spent in an hour, by the tasks completed in it.", "currencyUSD"),
])  # fmt: skip

LEDGER = Dashboard("cairn-ledger", "Cairn: ledger and relay", [
    stat("Position", "max(cairn_ledger_position)", "Of the last event."),
    stat("Views that halted", "sum(cairn_projection_halted)", "At an event they cannot apply.", alarming=1),
    stat("Not yet in JetStream", "sum(cairn_relay_backlog_events)", "Events.", alarming=1000),
    stat("Verified up to", "max(cairn_audit_verified_position)", "Position of the last verification."),
    stat("Verified", "time() - max(cairn_audit_last_success_timestamp_seconds)", "How long ago.", "s", alarming=93600),
    stat("Verifications that failed", "sum(cairn_audit_failures_total)", "Ever.", alarming=1),
    Panel("Events per second, by type", {"topk(10, sum by (type) (rate(cairn_events_total[5m])))": "{{type}}"},
          "The ten most frequent.", width=12),
    Panel("Views behind the ledger", {"max by (view) (cairn_projection_lag_events)": "{{view}}"}, "In events.",
          width=12, alarming=1000),
    Panel("Relay behind the ledger", {"max(cairn_relay_backlog_events)": "events"}, "In events.", alarming=1000),
    Panel("Requests per second", {"sum by (status) (cairn:http_requests:rate5m)": "{{status}}"}, "By answer."),
    Panel("Requests that failed", {"max(cairn:http_errors:ratio5m)": "5xx"}, "Share that was answered with 5xx.",
          "percentunit"),
    Panel("Time to answer, 99th percentile",
          {"topk(10, max by (route) (cairn:http_request_duration_seconds:p99_5m))": "{{route}}"},
          "The ten slowest routes.", "s"),
    Panel("Clients that follow", {"sum(cairn_stream_clients)": "clients"}, "Open streams of events."),
    Panel("Log lines per second", {"sum by (level) (rate(cairn_log_lines_total[5m]))": "{{level}}"}, "By level."),
])  # fmt: skip

RELIABILITY = Dashboard("cairn-reliability", "Cairn: reliability", [
    stat("Within the target", "min(cairn:workflows_within_sla:ratio1h)",
         "Share of the workflows of the last hour; 95 % are to be.", "percentunit"),
    stat("Orphans", "sum(cairn_orphans)", "Tasks that nothing moves. Always 0.", alarming=1),
    stat("Breakers open", 'sum(cairn_breakers{state="open"})', "What keeps failing and is not called.", alarming=1),
    stat("Dead letters", "sum(cairn_dead_letters_total)", "Messages that could not be read, ever."),
    stat("Findings, last day", "sum(increase(cairn_findings_total[1d]))", "Of all kinds and weights."),
    stat("Coverage", "min(cairn_coverage_percent)", "The lowest of any role.", "percent"),
    Panel("Time of a workflow", {"max(cairn:workflow_duration_seconds:p50_1h)": "half within",
          "max(cairn:workflow_duration_seconds:p95_1h)": "95 % within", "max(cairn_sla_target_seconds)": "target"},
          "From submission to end, over an hour, and the target.", "s", width=12, link="/?status=completed"),
    Panel("Workflows that failed", {"max(cairn:workflow_failures:ratio1h)": "failed or timed out"},
          "Share of those that ended within an hour.", "percentunit", width=12, alarming=0.2, link="/?status=failed"),
    Panel("Attempts tried again", {"max by (role) (cairn:retries:ratio1h)": "{{role}}"},
          "Share of those that ended within an hour.", "percentunit", alarming=0.5),
    Panel("Longest wait", {"max by (kind) (cairn_oldest_wait_seconds)": "{{kind}}"}, "Of the tasks that are open.", "s",
          link="/?status=running"),
    Panel("Tests that judged, per hour", {"sum by (outcome) (increase(cairn_verifications_total[1h]))": "{{outcome}}"},
          "By what they said."),
    Panel("Asks that were closed, per hour", {"sum by (outcome) (increase(cairn_asks_total[1h]))": "{{outcome}}"},
          "Answered, or not in time."),
    Panel("Findings, per hour", {"sum by (kind, severity) (increase(cairn_findings_total[1h]))": "{{kind}} {{severity}}"},
          "That results came with."),
    Panel("Webhooks that failed", {"max(cairn:webhook_failures:ratio15m)": "failed"},
          "Share of the deliveries tried within 15 minutes.", "percentunit", alarming=0.5),
])  # fmt: skip

BOARDS = (OVERVIEW, AGENTS, SPEND, LEDGER, RELIABILITY)


def documents() -> dict[str, str]:
    """File to the text it must have."""
    return {f"{FOLDER}/{board.uid}.json": document(board) for board in BOARDS}
