-- create: a row for each task that waits for time. `presence` is no view but what was heard; it outlives a rebuild.
CREATE TABLE due (
    workflow      text NOT NULL,
    task          text NOT NULL,
    kind          text NOT NULL,             -- offer, lease, retry
    due           double precision NOT NULL, -- seconds since the epoch, as all times here; a lease's may be renewed
    timeout_at    double precision,          -- of a lease: ends it in any case
    lease_seconds double precision,
    token         integer,
    run           text,
    attempt       integer NOT NULL,
    role          text,
    agent         text,
    dispatched    bigint,                    -- position
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX due_due ON due (due);
CREATE UNLOGGED TABLE IF NOT EXISTS presence (
    workflow text NOT NULL,
    run      text NOT NULL,
    token    integer NOT NULL,
    beat_at  double precision NOT NULL,
    PRIMARY KEY (workflow, run, token)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)

-- drop: the view.
DROP TABLE IF EXISTS due

-- remove: tasks that wait for time no more.
DELETE FROM due USING unnest(%(workflows)s::text[], %(tasks)s::text[]) AS gone (workflow, task)
WHERE due.workflow = gone.workflow AND due.task = gone.task

-- put: offers and retries, and leases whose offer is of the same batch.
INSERT INTO due SELECT * FROM json_populate_recordset(NULL::due, %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET
    kind = excluded.kind, due = excluded.due, timeout_at = excluded.timeout_at, lease_seconds = excluded.lease_seconds,
    token = excluded.token, run = excluded.run, attempt = excluded.attempt, role = excluded.role,
    agent = excluded.agent, dispatched = excluded.dispatched

-- lease: an agent took what was offered.
UPDATE due SET kind = 'lease', due = taken.due, timeout_at = taken.timeout_at, agent = taken.agent
FROM json_to_recordset(%(rows)s) AS taken (
    workflow text, task text, run text, due double precision, timeout_at double precision, agent text)
WHERE due.workflow = taken.workflow AND due.task = taken.task AND due.run = taken.run

-- due: what has fallen due, the longest overdue first.
SELECT json_agg(found)::text FROM (
    SELECT due.workflow, task, CASE WHEN kind = 'lease' AND timeout_at <= %(now)s THEN 'timeout' ELSE kind END AS kind,
           due, due.token, due.run, attempt, role, agent
    FROM due LEFT JOIN presence ON (presence.workflow, presence.run, presence.token) = (due.workflow, due.run, due.token)
    WHERE due <= %(now)s
      AND (kind <> 'lease' OR timeout_at <= %(now)s
           OR greatest(beat_at, %(listening_since)s::double precision) + lease_seconds <= %(now)s)
    ORDER BY due LIMIT %(limit)s) AS found

-- next_due: when `due` will next find something if no agent is heard of until then.
SELECT min(CASE WHEN kind = 'lease' THEN
               least(timeout_at, greatest(due, greatest(beat_at, %(listening_since)s::double precision) + lease_seconds))
           ELSE due END)
FROM due LEFT JOIN presence ON (presence.workflow, presence.run, presence.token) = (due.workflow, due.run, due.token)

-- oldest_offer: position of the oldest dispatch to a role that nobody has started.
SELECT min(dispatched) FROM due WHERE kind = 'offer' AND role = %(role)s

-- beat: agents were heard of. In order, so that two processes never wait for each other.
INSERT INTO presence
SELECT workflow, run, token, %(now)s
FROM unnest(%(workflows)s::text[], %(runs)s::text[], %(tokens)s::integer[]) AS heard (workflow, run, token)
ORDER BY workflow, run, token
ON CONFLICT (workflow, run, token) DO UPDATE SET beat_at = greatest(presence.beat_at, excluded.beat_at)

-- held: which of these runs may still be reported on.
SELECT asked.workflow, asked.run, asked.token
FROM unnest(%(workflows)s::text[], %(runs)s::text[], %(tokens)s::integer[]) AS asked (workflow, run, token)
WHERE EXISTS (SELECT FROM due WHERE due.workflow = asked.workflow AND due.run = asked.run AND due.token = asked.token)

-- sweep: forgets who was last heard of before a time and holds no lease.
DELETE FROM presence WHERE beat_at < %(before)s
AND NOT EXISTS (SELECT FROM due WHERE (due.workflow, due.run, due.token)
                                      = (presence.workflow, presence.run, presence.token))
