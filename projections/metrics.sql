-- create: counters and sums by name and labels, in whole numbers. A histogram's rows have one label more: `sum`, or the
-- bound of the one bucket that is meant. How long workflows took is kept by the second: any target can be asked for.
-- The rest is what the fold needs of workflows under way, and goes with them.
CREATE TABLE metrics (
    name   text NOT NULL,
    labels text[] NOT NULL,
    value  numeric NOT NULL,
    PRIMARY KEY (name, labels)
) WITH (fillfactor = 50);
CREATE TABLE metrics_ended (
    outcome   text NOT NULL,
    seconds   integer NOT NULL, -- rounded up
    workflows bigint NOT NULL,
    PRIMARY KEY (outcome, seconds)
) WITH (fillfactor = 70);
CREATE TABLE metrics_names (    -- that have a series of their own
    label text NOT NULL,        -- role, model
    value text NOT NULL,
    PRIMARY KEY (label, value)
);
CREATE TABLE metrics_flows (
    workflow text PRIMARY KEY,
    started  bigint NOT NULL,   -- microseconds since the epoch, as all times here
    used     double precision,  -- the highest share of a limit; none without a budget
    books    text               -- domain.budget.Books, as JSON
) WITH (fillfactor = 50);
CREATE TABLE metrics_tasks (
    workflow   text NOT NULL,
    task       text NOT NULL,
    role       text NOT NULL,
    ready      bigint,          -- a run could begin
    dispatched bigint,          -- the first time
    run        text,
    run_role   text NOT NULL,
    work       boolean NOT NULL,
    started    bigint,
    ask        text,            -- its kind
    asked      bigint,
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 50)

-- drop: all of it.
DROP TABLE IF EXISTS metrics, metrics_ended, metrics_names, metrics_flows, metrics_tasks

-- load: what is kept of these workflows.
SELECT json_agg(json_build_object(
    'flow', found,
    'tasks', (SELECT coalesce(json_agg(json_strip_nulls(to_json(t))), '[]') FROM metrics_tasks AS t
              WHERE t.workflow = found.workflow)))::text
FROM metrics_flows AS found WHERE workflow = ANY(%(workflows)s::text[])

-- names: what has a series of its own.
SELECT json_object_agg(label, given)::text
FROM (SELECT label, json_agg(value) AS given FROM metrics_names GROUP BY label) AS names

-- add: to what was counted before.
INSERT INTO metrics SELECT * FROM json_populate_recordset(NULL::metrics, %(rows)s)
ON CONFLICT (name, labels) DO UPDATE SET value = metrics.value + excluded.value

-- put: instead of what was there before.
INSERT INTO metrics SELECT * FROM json_populate_recordset(NULL::metrics, %(rows)s)
ON CONFLICT (name, labels) DO UPDATE SET value = excluded.value

-- add_ended: workflows that took so long.
INSERT INTO metrics_ended SELECT * FROM json_populate_recordset(NULL::metrics_ended, %(rows)s)
ON CONFLICT (outcome, seconds) DO UPDATE SET workflows = metrics_ended.workflows + excluded.workflows

-- add_names: new ones.
INSERT INTO metrics_names SELECT * FROM json_populate_recordset(NULL::metrics_names, %(rows)s)

-- remove_flows: workflows that ended, and all their tasks.
WITH tasks AS (DELETE FROM metrics_tasks WHERE workflow = ANY(%(workflows)s::text[]))
DELETE FROM metrics_flows WHERE workflow = ANY(%(workflows)s::text[])

-- remove_tasks: tasks that ended.
DELETE FROM metrics_tasks USING unnest(%(workflows)s::text[], %(tasks)s::text[]) AS gone (workflow, task)
WHERE metrics_tasks.workflow = gone.workflow AND metrics_tasks.task = gone.task

-- put_flows: new ones and changed ones.
INSERT INTO metrics_flows SELECT * FROM json_populate_recordset(NULL::metrics_flows, %(rows)s)
ON CONFLICT (workflow) DO UPDATE SET used = excluded.used, books = excluded.books

-- put_tasks: new ones and changed ones.
INSERT INTO metrics_tasks SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::metrics_tasks, '{"run_role": "", "work": false}'), %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET
    role = excluded.role, ready = excluded.ready, dispatched = excluded.dispatched, run = excluded.run,
    run_role = excluded.run_role, work = excluded.work, started = excluded.started, ask = excluded.ask,
    asked = excluded.asked

-- counted: all that was counted, as of one position. Of workflows so many took no longer than each bound, but longer
-- than the one before: the last is of those that took longer than all.
SELECT json_build_object(
    'position', (SELECT position FROM projections WHERE name = 'metrics'),
    'rows', (SELECT coalesce(json_agg(json_build_object('name', name, 'labels', labels, 'value', value::text)), '[]')
             FROM metrics),
    'roles', (SELECT coalesce(json_agg(value), '[]') FROM metrics_names WHERE label = 'role'),
    'ended', (SELECT coalesce(json_agg(json_build_array(outcome, bucket, workflows)), '[]')
              FROM (SELECT outcome, width_bucket(seconds - 1, %(bounds)s::integer[]) AS bucket,
                           sum(workflows) AS workflows
                    FROM metrics_ended GROUP BY 1, 2) AS buckets))::text

-- asked: everything that is so just now. What is told by role has those names that were counted under.
WITH now AS (SELECT extract(epoch FROM clock_timestamp()) AS at),
roles AS (SELECT value FROM metrics_names WHERE label = 'role')
SELECT json_build_object(
    'position', (SELECT position FROM ledger_head),
    'views', (SELECT json_agg(json_build_object('name', name, 'position', position, 'halted', halted IS NOT NULL))
              FROM projections),
    'workflows', (SELECT coalesce(json_object_agg(status, number), '{}') FROM (
        SELECT CASE WHEN paused THEN 'paused' ELSE status END AS status, count(*) AS number
        FROM board_workflows WHERE ended_at IS NULL GROUP BY 1) AS counted),
    'waits', (SELECT coalesce(json_object_agg(kind, number), '{}') FROM (
        SELECT kind, count(*) AS number FROM waits GROUP BY kind) AS counted),
    'queue', (SELECT coalesce(json_object_agg(role, number), '{}') FROM (
        SELECT coalesce(value, 'other') AS role, count(*) AS number
        FROM waits LEFT JOIN roles ON value = role WHERE kind = 'slot' GROUP BY 1) AS counted),
    'oldest', (SELECT json_build_object('slot', min(ready), 'ask', min(asked), 'lease', min(started))
               FROM metrics_tasks),
    'asks', (SELECT coalesce(json_object_agg(kind, number), '{}') FROM (
        SELECT kind, count(*) AS number FROM board_asks WHERE state = 'open' GROUP BY kind) AS counted),
    'agents', (SELECT coalesce(json_agg(counted), '[]') FROM (
        SELECT coalesce(value, 'other') AS role, CASE WHEN drained AND status = 'here' THEN 'drained' ELSE status END AS status,
               count(*) AS number, max(at - greatest(heard_at, changed_at)) AS silent
        FROM now, board_agents LEFT JOIN roles ON value = role LEFT JOIN agents_heard ON agent = name
        WHERE status <> 'left' GROUP BY 1, 2) AS counted),
    'budget', (SELECT json_build_array(coalesce(max(used), 0), count(*) FILTER (WHERE used >= 0.8),
                                       count(*) FILTER (WHERE used >= 1)) FROM metrics_flows),
    'at', (SELECT at FROM now))::text
