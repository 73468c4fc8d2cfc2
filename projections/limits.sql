-- create: when the time of a workflow is over (its task is ''), or that of a task, all attempts together.
CREATE TABLE limits (
    workflow text NOT NULL,
    task     text NOT NULL,
    due      double precision,          -- seconds since the epoch, as all times here; none while it stands still
    seconds  double precision,          -- of a workflow: domain.clock.Clock
    spent    double precision NOT NULL,
    since    double precision,
    halts    integer NOT NULL,
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70);
CREATE INDEX limits_due ON limits (due)

-- drop: the table.
DROP TABLE IF EXISTS limits

-- load: all there are.
SELECT json_agg(found)::text FROM limits AS found

-- remove: what has ended.
DELETE FROM limits USING unnest(%(workflows)s::text[], %(tasks)s::text[]) AS gone (workflow, task)
WHERE limits.workflow = gone.workflow AND limits.task = gone.task

-- put: new limits and those that moved.
INSERT INTO limits SELECT * FROM json_populate_recordset(
    json_populate_record(NULL::limits, '{"spent": 0, "halts": 0}'), %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET
    due = excluded.due, seconds = excluded.seconds, spent = excluded.spent, since = excluded.since,
    halts = excluded.halts
