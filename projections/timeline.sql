-- create: what a Gantt chart is drawn from; times are seconds since the epoch. The JSON is as `timeline_rows` has it.
CREATE TABLE timeline_charts (
    workflow text PRIMARY KEY,
    title    text NOT NULL,
    "from"   double precision NOT NULL,
    tasks    integer NOT NULL,
    until    double precision NOT NULL,
    last     bigint NOT NULL,           -- position
    admitted double precision,
    "to"     double precision,
    outcome  text,
    pauses   json NOT NULL              -- timeline_rows.Pause
) WITH (fillfactor = 70);
CREATE TABLE timeline_lanes (
    workflow     text NOT NULL,
    number       integer NOT NULL,
    task         text NOT NULL,
    title        text NOT NULL,
    role         text NOT NULL,
    "from"       double precision NOT NULL,
    dependencies json NOT NULL,
    parent       text,
    depth        integer NOT NULL,
    "to"         double precision,
    outcome      text,
    intervals    json NOT NULL,         -- timeline_rows.Interval
    attempts     json NOT NULL,         -- timeline_rows.Attempt
    asks         json NOT NULL,         -- timeline_rows.Asked
    PRIMARY KEY (workflow, number)
) WITH (fillfactor = 70)

-- drop: all of it.
DROP TABLE IF EXISTS timeline_charts, timeline_lanes

-- load: of these workflows the charts, the lanes of open tasks and of those that are named.
SELECT json_agg(json_build_object('workflow', chart, 'tasks', (
    SELECT coalesce(json_agg(lane ORDER BY number), '[]') FROM timeline_lanes AS lane
    WHERE lane.workflow = chart.workflow
      AND (lane."to" IS NULL OR lane.task = ANY(%(tasks)s::text[])))))::text
FROM timeline_charts AS chart WHERE workflow = ANY(%(workflows)s::text[])

-- store_charts: new rows and changed ones.
INSERT INTO timeline_charts SELECT * FROM json_populate_recordset(NULL::timeline_charts, %(rows)s)
ON CONFLICT (workflow) DO UPDATE SET
    tasks = excluded.tasks, until = excluded.until, last = excluded.last, admitted = excluded.admitted,
    "to" = excluded."to", outcome = excluded.outcome, pauses = excluded.pauses

-- store_lanes: new rows and changed ones.
INSERT INTO timeline_lanes SELECT * FROM json_populate_recordset(NULL::timeline_lanes, %(rows)s)
ON CONFLICT (workflow, number) DO UPDATE SET
    title = excluded.title, role = excluded.role, dependencies = excluded.dependencies, "to" = excluded."to",
    outcome = excluded.outcome, intervals = excluded.intervals, attempts = excluded.attempts, asks = excluded.asks

-- page: a workflow with a page of its tasks, in the order in which they were created.
SELECT json_build_object('workflow', chart, 'tasks', (
    SELECT coalesce(json_agg(lane ORDER BY number), '[]') FROM (
        SELECT * FROM timeline_lanes AS one
        WHERE one.workflow = chart.workflow AND number > %(after)s ORDER BY number LIMIT %(limit)s) AS lane))::text
FROM timeline_charts AS chart WHERE workflow = %(workflow)s
