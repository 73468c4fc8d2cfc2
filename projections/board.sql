-- create: what people look at; times that events carry are seconds since the epoch, those of recording are timestamps.
-- What stands in braces is filled in from `domain.state` and `board_rows`. The triggers refuse what `decide` would never
-- lead to, whoever writes it: a second lock behind the first.
CREATE TABLE board_workflows (
    workflow      text PRIMARY KEY,
    title         text NOT NULL,
    objective     text NOT NULL,
    status        text NOT NULL CHECK (status IN ({workflow_statuses})), -- waiting: running, and a person is asked
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
    paused        boolean NOT NULL DEFAULT false,
    progress      double precision NOT NULL DEFAULT 0, -- 0 to 1, never less than before
    parts         double precision NOT NULL DEFAULT 0, -- weights of the tasks that are part of no other, and what is done of them
    parts_done    double precision NOT NULL DEFAULT 0,
    first         bigint NOT NULL,  -- positions
    last          bigint NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX board_workflows_first ON board_workflows (first);
CREATE INDEX board_workflows_open ON board_workflows (workflow) WHERE ended_at IS NULL;

CREATE TABLE board_tasks (
    workflow      text NOT NULL,
    task          text NOT NULL,
    title         text NOT NULL,
    role          text NOT NULL,
    status        text NOT NULL CHECK (status IN ({task_statuses})),
    attempt       integer NOT NULL,
    agent         text,             -- whose work it is; who runs its tests stands in board_attempts
    run           text,
    ask           text,
    dependencies  text[] NOT NULL,
    parent        text,
    depth         integer NOT NULL,
    branch_reason text,
    priority      integer NOT NULL,
    capabilities  text[] NOT NULL DEFAULT '{}',
    ordinal       integer NOT NULL, -- place in the plan, a branch has its parent's
    summary       text NOT NULL,
    commit        text,
    files         text[] NOT NULL,
    failure       jsonb,            -- domain.outcome.Failure, the last one
    receipts      jsonb NOT NULL,   -- domain.outcome.Receipt, of the last run of its tests
    retry_due     double precision,
    started_at    timestamptz,
    ended_at      timestamptz,
    weight        double precision NOT NULL DEFAULT 1, -- in the progress of what it is part of
    progress      double precision NOT NULL DEFAULT 0, -- 0 to 1, never less than before
    own           double precision NOT NULL DEFAULT 1, -- weight of its own work among its parts
    parts         double precision NOT NULL DEFAULT 0, -- weights of its parts, and what is done of them
    parts_done    double precision NOT NULL DEFAULT 0,
    created       bigint NOT NULL,  -- positions
    updated       bigint NOT NULL,
    steps         text[],           -- of a row on its way in: the statuses it went through before `status`; not kept
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70);

CREATE TABLE board_attempts (
    workflow      text NOT NULL,
    task          text NOT NULL,
    run           text NOT NULL,
    attempt       integer NOT NULL,
    purpose       text NOT NULL CHECK (purpose IN ({purposes})),
    role          text NOT NULL,
    agent         text,
    outcome       text CHECK (outcome IN ({outcomes})),
    failure       jsonb,
    dispatched_at timestamptz NOT NULL,
    started_at    timestamptz,
    ended_at      timestamptz,
    timeout_at    double precision,
    usage         jsonb,            -- domain.usage.Usage, once it has ended
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
    opened_at     timestamptz NOT NULL,
    opened        bigint NOT NULL,  -- position
    question      text NOT NULL,
    options       text[] NOT NULL,  -- none: any words
    "default"     text,             -- what is taken at the deadline
    who           text[] NOT NULL,  -- may answer; none: anyone
    due           double precision,
    state         text NOT NULL CHECK (state IN ({ask_states})),
    closed_at     timestamptz,
    choice        text,
    answered_by   text,
    because       text,
    instructions  text,
    role          text,
    edit          jsonb,            -- domain.plan.Edit
    PRIMARY KEY (workflow, ask)
);
CREATE UNIQUE INDEX board_asks_opened ON board_asks (opened);
CREATE INDEX board_asks_open ON board_asks (opened) WHERE state = 'open';

CREATE TABLE board_agents (
    name         text PRIMARY KEY,
    status       text NOT NULL,     -- here, lost, left
    role         text NOT NULL,
    capacity     integer NOT NULL,
    capabilities text[] NOT NULL,
    version      text NOT NULL,
    drained      boolean NOT NULL,
    changed_at   double precision NOT NULL
) WITH (fillfactor = 70);
CREATE UNLOGGED TABLE IF NOT EXISTS agents_heard ( -- no view but what was heard; it outlives a rebuild
    agent    text PRIMARY KEY,
    heard_at double precision NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION refuse_board_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was text := CASE TG_OP WHEN 'INSERT' THEN 'pending' ELSE OLD.status END;
    becomes text;
BEGIN
    FOREACH becomes IN ARRAY array_append(NEW.steps, NEW.status) LOOP
        IF NOT (CASE was {task_transitions} ELSE false END) THEN
            RAISE EXCEPTION 'task % of workflow % is %, it does not become %', NEW.task, NEW.workflow, was, becomes
                USING ERRCODE = 'restrict_violation';
        END IF;
        was := becomes;
    END LOOP;
    NEW.steps := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_update BEFORE UPDATE ON board_tasks FOR EACH ROW
WHEN (OLD.status <> NEW.status OR NEW.steps IS NOT NULL) EXECUTE FUNCTION refuse_board_task();
CREATE TRIGGER refuse_insert BEFORE INSERT ON board_tasks FOR EACH ROW
WHEN (NEW.status <> 'pending' OR NEW.steps IS NOT NULL) EXECUTE FUNCTION refuse_board_task();

CREATE FUNCTION refuse_board_workflow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was text := CASE OLD.status WHEN 'waiting' THEN 'running' ELSE OLD.status END;
    becomes text := CASE NEW.status WHEN 'waiting' THEN 'running' ELSE NEW.status END;
BEGIN
    IF was <> becomes AND NOT (CASE was {workflow_transitions} ELSE false END) THEN
        RAISE EXCEPTION 'workflow % is %, it does not become %', NEW.workflow, was, becomes
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_update BEFORE UPDATE ON board_workflows FOR EACH ROW
WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION refuse_board_workflow()

-- drop: all of it.
DROP TABLE IF EXISTS board_workflows, board_tasks, board_attempts, board_asks, board_agents;
DROP FUNCTION IF EXISTS refuse_board_task, refuse_board_workflow

-- load_workflows: the rows of these workflows.
SELECT json_agg(found)::text FROM board_workflows AS found WHERE workflow = ANY(%(workflows)s::text[])

-- load_tasks: the rows of these tasks and of those they are part of, with all attempts (the usage of an ended one may change)
-- and the ask each waits for.
WITH RECURSIVE named (workflow, task) AS (
    SELECT * FROM unnest(%(workflows)s::text[], %(tasks)s::text[])
    UNION
    SELECT workflow, parent FROM named JOIN board_tasks USING (workflow, task) WHERE parent IS NOT NULL)
SELECT json_agg(json_build_object(
    'task', found,
    'attempts', (SELECT coalesce(json_agg(a), '[]') FROM board_attempts AS a
                 WHERE a.workflow = found.workflow AND a.task = found.task),
    'ask', (SELECT to_json(k) FROM board_asks AS k WHERE k.workflow = found.workflow AND k.ask = found.ask)))::text
FROM named JOIN board_tasks AS found USING (workflow, task)

-- store_workflows: new rows and changed ones.
INSERT INTO board_workflows SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::board_workflows, '{"completed": 0, "failed": 0, "branches": 0, "asks": 0,
        "paused": false, "progress": 0, "parts": 0, "parts_done": 0}'), %(rows)s)
ON CONFLICT (workflow) DO UPDATE SET
    status = excluded.status, tasks = excluded.tasks, completed = excluded.completed, failed = excluded.failed, branches = excluded.branches,
    asks = excluded.asks, repository = excluded.repository, ended_at = excluded.ended_at, reason = excluded.reason,
    paused = excluded.paused, progress = excluded.progress, parts = excluded.parts, parts_done = excluded.parts_done,
    last = excluded.last

-- add_tasks: new rows. Those that change are not handed in as if they were new: the trigger would judge them so.
INSERT INTO board_tasks SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::board_tasks, '{"dependencies": [], "depth": 0, "priority": 0, "capabilities": [],
                                              "status": "pending", "attempt": 0, "summary": "", "files": [],
                                              "receipts": [], "weight": 1, "progress": 0, "own": 1, "parts": 0,
                                              "parts_done": 0}'),
    %(rows)s)

-- store_tasks: changed rows.
UPDATE board_tasks AS task SET
    status = new.status, attempt = new.attempt, agent = new.agent, run = new.run, ask = new.ask,
    summary = new.summary, commit = new.commit, files = new.files, failure = new.failure, receipts = new.receipts,
    retry_due = new.retry_due, started_at = new.started_at, ended_at = new.ended_at, updated = new.updated,
    steps = new.steps, title = new.title, role = new.role, dependencies = new.dependencies, priority = new.priority,
    capabilities = new.capabilities, progress = new.progress, own = new.own, parts = new.parts, parts_done = new.parts_done
FROM json_populate_recordset(
    json_populate_record(NULL::board_tasks, '{"status": "pending", "attempt": 0, "summary": "", "files": [],
                                              "receipts": [], "dependencies": [], "priority": 0,
                                              "capabilities": [], "progress": 0, "own": 1, "parts": 0, "parts_done": 0}'),
    %(rows)s) AS new
WHERE task.workflow = new.workflow AND task.task = new.task

-- store_attempts: new rows and changed ones.
INSERT INTO board_attempts SELECT * FROM json_populate_recordset(NULL::board_attempts, %(rows)s)
ON CONFLICT (workflow, task, run) DO UPDATE SET
    attempt = excluded.attempt, agent = excluded.agent, outcome = excluded.outcome, failure = excluded.failure,
    dispatched_at = excluded.dispatched_at, started_at = excluded.started_at, ended_at = excluded.ended_at,
    timeout_at = excluded.timeout_at, usage = excluded.usage, dispatched = excluded.dispatched

-- store_asks: new rows and changed ones.
INSERT INTO board_asks SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::board_asks, '{"state": "open", "question": "", "options": [], "who": []}'), %(rows)s)
ON CONFLICT (workflow, ask) DO UPDATE SET
    state = excluded.state, closed_at = excluded.closed_at, choice = excluded.choice,
    answered_by = excluded.answered_by, because = excluded.because, instructions = excluded.instructions,
    role = excluded.role, edit = excluded.edit

-- asks: a page in the order they were opened, of one workflow or all, in one state or any.
SELECT json_agg(page)::text FROM (
    SELECT * FROM board_asks
    WHERE opened > %(after)s AND (state = %(state)s OR %(state)s = 'any')
      AND (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
    ORDER BY opened LIMIT %(limit)s) AS page

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
    'asks', (SELECT coalesce(json_agg(k ORDER BY opened), '[]') FROM board_asks AS k
             WHERE k.workflow = found.workflow))::text
FROM board_workflows AS found WHERE workflow = %(workflow)s
