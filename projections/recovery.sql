-- create: one row for each open task: what it waits on. `waits_seen` says how much of a workflow they show.
-- `presence` is no view but what was heard; it outlives a rebuild. `orphans` reads the board's tables too, and by a
-- function, which does not bind them: either view can be dropped and rebuilt without the other.
CREATE TABLE waits (
    workflow      text NOT NULL,
    task          text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('dependency', 'slot', 'lease', 'timer', 'ask')),
    due           double precision, -- seconds since the epoch, as all times here; a lease's may be renewed
    role          text,             -- of a dependency: that of the slot which comes next; without one it is a branch
    missing       integer,          -- of a dependency: how many of
    needs         text[],           -- these have not closed
    ask           text,
    attempt       integer,          -- a timer without one is due at once: what it waits for stands in the next events
    run           text,             -- of a slot: what was offered, if anything was yet
    token         integer,
    agent         text,
    timeout_at    double precision, -- of a lease: ends it in any case
    lease_seconds double precision,
    dispatched    bigint,           -- position
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX waits_due ON waits (due) WHERE attempt IS NOT NULL OR kind = 'ask';
CREATE TABLE waits_seen (
    workflow text   PRIMARY KEY,
    last     bigint NOT NULL -- position
) WITH (fillfactor = 70);
CREATE UNLOGGED TABLE IF NOT EXISTS presence (
    workflow text NOT NULL,
    run      text NOT NULL,
    token    integer NOT NULL,
    beat_at  double precision NOT NULL,
    PRIMARY KEY (workflow, run, token)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE FUNCTION orphans_of_now() RETURNS TABLE (workflow text, task text, kind text, why text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH compared AS MATERIALIZED (
        SELECT board.workflow FROM board_workflows AS board LEFT JOIN waits_seen AS seen USING (workflow)
        WHERE board.ended_at IS NULL
          AND coalesce(seen.last = board.last,
                       board.last <= (SELECT position FROM projections WHERE name = 'recovery')))
    SELECT t.workflow, t.task, w.kind, wrong.why
    FROM compared JOIN board_tasks AS t ON t.workflow = compared.workflow AND t.ended_at IS NULL
    LEFT JOIN waits AS w ON w.workflow = t.workflow AND w.task = t.task
    CROSS JOIN LATERAL (SELECT CASE
        WHEN w.kind IS NULL
            THEN 'it waits on nothing'
        WHEN w.kind = 'dependency' AND w.missing IS DISTINCT FROM (
                SELECT nullif(count(*), 0) FROM board_tasks AS need
                WHERE need.workflow = w.workflow AND need.task = ANY (w.needs) AND need.ended_at IS NULL)
            THEN 'what it depends on is closed'
        WHEN w.kind IN ('slot', 'lease') AND w.run IS DISTINCT FROM t.run
            THEN 'its run is another one'
        WHEN w.kind IN ('slot', 'lease') AND w.run IS NOT NULL AND NOT EXISTS (
                SELECT FROM board_attempts AS a
                WHERE a.workflow = w.workflow AND a.task = w.task AND a.run = w.run AND a.dispatched = w.dispatched
                  AND a.agent IS NOT DISTINCT FROM w.agent AND a.ended_at IS NULL)
            THEN 'its run is over, or is out under another token'
        WHEN w.kind = 'ask' AND NOT EXISTS (
                SELECT FROM board_asks AS k
                WHERE k.workflow = w.workflow AND k.ask = w.ask AND k.task = w.task AND k.state = 'open')
            THEN 'its ask is closed'
        WHEN w.kind = 'timer' AND w.attempt IS NOT NULL AND w.due IS DISTINCT FROM t.retry_due
            THEN 'its timer is not the one that was set'
        WHEN w.kind = 'timer' AND w.attempt IS NULL AND w.due < extract(epoch FROM clock_timestamp()) - 60
            THEN 'nothing followed'
        END AS why) AS wrong
    WHERE wrong.why IS NOT NULL
    UNION ALL
    SELECT w.workflow, w.task, w.kind, 'the task is closed'
    FROM waits AS w
    JOIN waits_seen AS seen ON seen.workflow = w.workflow
    JOIN board_workflows AS board ON board.workflow = w.workflow AND board.last = seen.last
    LEFT JOIN board_tasks AS t ON t.workflow = w.workflow AND t.task = w.task
    WHERE t.task IS NULL OR t.ended_at IS NOT NULL OR board.ended_at IS NOT NULL;
END $$;
CREATE VIEW orphans AS SELECT * FROM orphans_of_now()

-- drop: the view.
DROP VIEW IF EXISTS orphans;
DROP FUNCTION IF EXISTS orphans_of_now;
DROP TABLE IF EXISTS waits, waits_seen

-- load: all that is open of these workflows.
SELECT json_agg(json_strip_nulls(to_json(found)))::text FROM waits AS found WHERE workflow = ANY(%(workflows)s::text[])

-- keep: what tasks wait on now, which tasks wait no more, and how much of these workflows that shows. What is needed is
-- sent once, when it begins to be.
WITH gone AS (
    DELETE FROM waits USING unnest(%(workflows)s::text[], %(tasks)s::text[]) AS closed (workflow, task)
    WHERE waits.workflow = closed.workflow AND waits.task = closed.task),
shown AS (
    INSERT INTO waits_seen SELECT * FROM unnest(%(seen)s::text[], %(last)s::bigint[])
    ON CONFLICT (workflow) DO UPDATE SET last = excluded.last)
INSERT INTO waits SELECT * FROM json_populate_recordset(NULL::waits, %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET
    kind = excluded.kind, due = excluded.due, role = excluded.role, missing = excluded.missing,
    needs = CASE excluded.kind WHEN 'dependency' THEN coalesce(excluded.needs, waits.needs) END,
    ask = excluded.ask, attempt = excluded.attempt, run = excluded.run, token = excluded.token,
    agent = excluded.agent, timeout_at = excluded.timeout_at, lease_seconds = excluded.lease_seconds,
    dispatched = excluded.dispatched

-- due: what has fallen due, the longest overdue first.
SELECT json_agg(found)::text FROM (
    SELECT workflow, task, 'limit' AS kind, due, NULL::integer AS token, NULL AS run, 0 AS attempt, NULL AS role,
           NULL AS agent, NULL AS ask
    FROM limits WHERE due <= %(now)s
    UNION ALL
    SELECT waits.workflow, task,
           CASE WHEN kind = 'slot' THEN 'offer' WHEN kind = 'timer' THEN 'retry' WHEN kind = 'ask' THEN 'ask'
                WHEN timeout_at <= %(now)s THEN 'timeout' ELSE 'lease' END AS kind,
           due, waits.token, waits.run, attempt, role, agent, ask
    FROM waits LEFT JOIN presence
         ON (presence.workflow, presence.run, presence.token) = (waits.workflow, waits.run, waits.token)
    WHERE due <= %(now)s AND (attempt IS NOT NULL OR kind = 'ask')
      AND NOT (kind = 'slot' AND ARRAY['', role] && %(unanswered)s::text[])
      AND (kind <> 'lease' OR timeout_at <= %(now)s
           OR greatest(beat_at, %(listening_since)s::double precision) + lease_seconds <= %(now)s)
    ORDER BY due LIMIT %(limit)s) AS found

-- next_due: when `due` will next find something if no agent is heard of until then.
SELECT least((SELECT min(due) FROM limits), min(CASE WHEN kind = 'lease' THEN
               least(timeout_at, greatest(due, greatest(beat_at, %(listening_since)s::double precision) + lease_seconds))
           ELSE due END))
FROM waits LEFT JOIN presence
     ON (presence.workflow, presence.run, presence.token) = (waits.workflow, waits.run, waits.token)
WHERE (attempt IS NOT NULL OR kind = 'ask') AND NOT (kind = 'slot' AND ARRAY['', role] && %(unanswered)s::text[])

-- first_offer: no dispatch to a role that nobody has started lies before this position. What the view has not seen yet
-- may hold some, and how far it has come is asked in the same snapshot: a crash of Postgres may take its last steps back.
SELECT coalesce(least(min(dispatched), (SELECT position + 1 FROM projections WHERE name = 'recovery')), 1)
FROM waits WHERE kind = 'slot' AND attempt IS NOT NULL AND role = %(role)s

-- beat: agents were heard of. In order, so that two processes never wait for each other.
INSERT INTO presence
SELECT workflow, run, token, %(now)s
FROM unnest(%(workflows)s::text[], %(runs)s::text[], %(tokens)s::integer[]) AS heard (workflow, run, token)
ORDER BY workflow, run, token
ON CONFLICT (workflow, run, token) DO UPDATE SET beat_at = greatest(presence.beat_at, excluded.beat_at)

-- held: which of these runs may still be reported on. A run's name begins with its task's.
SELECT asked.workflow, asked.run, asked.token
FROM unnest(%(workflows)s::text[], %(runs)s::text[], %(tokens)s::integer[]) AS asked (workflow, run, token)
WHERE EXISTS (SELECT FROM waits WHERE waits.workflow = asked.workflow AND waits.task = split_part(asked.run, '/', 1)
              AND waits.run = asked.run AND waits.token = asked.token)

-- sweep: forgets who was last heard of before a time and holds no lease.
DELETE FROM presence WHERE beat_at < %(before)s
AND NOT EXISTS (SELECT FROM waits WHERE waits.workflow = presence.workflow
                AND waits.task = split_part(presence.run, '/', 1)
                AND waits.run = presence.run AND waits.token = presence.token)

-- orphans: what the view of that name holds.
SELECT json_agg(orphans)::text FROM orphans

-- standing: how many orphans there are, and how many tasks wait on what.
SELECT json_build_object(
    'orphans', (SELECT count(*) FROM orphans),
    'waits', (SELECT coalesce(json_object_agg(kind, number), '{}')
              FROM (SELECT kind, count(*) AS number FROM waits GROUP BY kind) AS counted))::text
