-- create: what people look at; times that events carry are seconds since the epoch, those of recording are timestamps.
CREATE TABLE board_workflows (
    workflow      text PRIMARY KEY,
    title         text NOT NULL,
    objective     text NOT NULL,
    status        text NOT NULL,    -- running, waiting (on a person), completed, failed, cancelled
    tasks         integer NOT NULL, -- of the plan, as are completed and failed: a branch is its parent's matter
    completed     integer NOT NULL,
    failed        integer NOT NULL,
    branches      integer NOT NULL,
    asks          integer NOT NULL, -- that are open
    repository    text,
    base          text,
    lease_seconds double precision NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    reason        text,
    first         bigint NOT NULL,  -- positions
    last          bigint NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX board_workflows_first ON board_workflows (first);

CREATE TABLE board_tasks (
    workflow      text NOT NULL,
    task          text NOT NULL,
    title         text NOT NULL,
    role          text NOT NULL,
    status        text NOT NULL,    -- domain.state.TaskStatus
    attempt       integer NOT NULL,
    agent         text,             -- whose work it is; who runs its tests stands in board_attempts
    run           text,
    ask           text,
    dependencies  text[] NOT NULL,
    parent        text,
    depth         integer NOT NULL,
    branch_reason text,
    priority      integer NOT NULL,
    ordinal       integer NOT NULL, -- place in the plan, a branch has its parent's
    summary       text NOT NULL,
    commit        text,
    files         text[] NOT NULL,
    failure       jsonb,            -- domain.outcome.Failure, the last one
    receipts      jsonb NOT NULL,   -- domain.outcome.Receipt, of the last run of its tests
    retry_due     double precision,
    started_at    timestamptz,
    ended_at      timestamptz,
    created       bigint NOT NULL,  -- positions
    updated       bigint NOT NULL,
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70);

CREATE TABLE board_attempts (
    workflow      text NOT NULL,
    task          text NOT NULL,
    run           text NOT NULL,
    attempt       integer NOT NULL,
    purpose       text NOT NULL,    -- work, verify
    role          text NOT NULL,
    agent         text,
    outcome       text,             -- reported, completed, passed, failed, cancelled
    failure       jsonb,
    dispatched_at timestamptz NOT NULL,
    started_at    timestamptz,
    ended_at      timestamptz,
    timeout_at    double precision,
    dispatched    bigint NOT NULL,  -- position of the last offer
    PRIMARY KEY (workflow, task, run)
) WITH (fillfactor = 70);

CREATE TABLE board_asks (
    workflow      text NOT NULL,
    ask           text NOT NULL,
    task          text NOT NULL,
    kind          text NOT NULL,
    shown         text NOT NULL,
    content       json NOT NULL,    -- not jsonb: shown is the hash of this text's values
    open          boolean NOT NULL,
    opened_at     timestamptz NOT NULL,
    answered_at   timestamptz,
    approved      boolean,
    answered_by   text,
    because       text,
    PRIMARY KEY (workflow, ask)
)

-- drop: all of it.
DROP TABLE IF EXISTS board_workflows, board_tasks, board_attempts, board_asks

-- load_workflows: the rows of these workflows.
SELECT json_agg(found)::text FROM board_workflows AS found WHERE workflow = ANY(%(workflows)s::text[])

-- load_tasks: the rows of these tasks, each with the attempts that can still change and the ask it waits for.
SELECT json_agg(json_build_object(
    'task', found,
    'attempts', (SELECT coalesce(json_agg(a), '[]') FROM board_attempts AS a
                 WHERE a.workflow = found.workflow AND a.task = found.task
                   AND (a.run = found.run OR a.outcome IN ('reported', 'passed', 'failed'))),
    'ask', (SELECT to_json(k) FROM board_asks AS k WHERE k.workflow = found.workflow AND k.ask = found.ask)))::text
FROM unnest(%(workflows)s::text[], %(tasks)s::text[]) AS wanted (workflow, task)
JOIN board_tasks AS found USING (workflow, task)

-- store_workflows: new rows and changed ones.
INSERT INTO board_workflows SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::board_workflows, '{"completed": 0, "failed": 0, "branches": 0, "asks": 0}'), %(rows)s)
ON CONFLICT (workflow) DO UPDATE SET
    status = excluded.status, completed = excluded.completed, failed = excluded.failed, branches = excluded.branches,
    asks = excluded.asks, repository = excluded.repository, ended_at = excluded.ended_at, reason = excluded.reason, last = excluded.last

-- store_tasks: new rows and changed ones.
INSERT INTO board_tasks SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::board_tasks, '{"dependencies": [], "depth": 0, "priority": 0, "status": "pending",
                                              "attempt": 0, "summary": "", "files": [], "receipts": []}'), %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET
    status = excluded.status, attempt = excluded.attempt, agent = excluded.agent, run = excluded.run,
    ask = excluded.ask, summary = excluded.summary, commit = excluded.commit, files = excluded.files,
    failure = excluded.failure, receipts = excluded.receipts, retry_due = excluded.retry_due,
    started_at = excluded.started_at, ended_at = excluded.ended_at, updated = excluded.updated

-- store_attempts: new rows and changed ones.
INSERT INTO board_attempts SELECT * FROM json_populate_recordset(NULL::board_attempts, %(rows)s)
ON CONFLICT (workflow, task, run) DO UPDATE SET
    attempt = excluded.attempt, agent = excluded.agent, outcome = excluded.outcome, failure = excluded.failure,
    dispatched_at = excluded.dispatched_at, started_at = excluded.started_at, ended_at = excluded.ended_at,
    timeout_at = excluded.timeout_at, dispatched = excluded.dispatched

-- store_asks: new rows and changed ones.
INSERT INTO board_asks SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::board_asks, '{"open": true}'), %(rows)s)
ON CONFLICT (workflow, ask) DO UPDATE SET
    open = excluded.open, answered_at = excluded.answered_at, approved = excluded.approved,
    answered_by = excluded.answered_by, because = excluded.because

-- workflows: a page, the newest first.
SELECT json_agg(page)::text FROM (
    SELECT * FROM board_workflows WHERE first < %(before)s ORDER BY first DESC LIMIT %(limit)s) AS page

-- workflow: everything about one, as of one moment.
SELECT json_build_object(
    'workflow', found,
    'tasks', (SELECT coalesce(json_agg(t ORDER BY ordinal, created), '[]') FROM board_tasks AS t
              WHERE t.workflow = found.workflow),
    'attempts', (SELECT coalesce(json_agg(a ORDER BY dispatched), '[]') FROM board_attempts AS a
                 WHERE a.workflow = found.workflow),
    'asks', (SELECT coalesce(json_agg(k ORDER BY opened_at, ask), '[]') FROM board_asks AS k
             WHERE k.workflow = found.workflow))::text
FROM board_workflows AS found WHERE workflow = %(workflow)s
