-- create: what is claimed (a place of a workflow, what a task needs), and what is paused ('' is all of the tenant).
CREATE TABLE board_claims (
    claim     text PRIMARY KEY,
    workflow  text NOT NULL,
    task      text NOT NULL,    -- '' for a workflow
    role      text NOT NULL,
    resources text[] NOT NULL,
    priority  integer NOT NULL,
    queued    bigint NOT NULL,  -- position
    granted   boolean NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX board_claims_workflow ON board_claims (workflow);
CREATE TABLE board_pauses (
    role   text PRIMARY KEY,
    by     text NOT NULL,
    reason text NOT NULL
)

-- drop: all of it.
DROP TABLE IF EXISTS board_claims, board_pauses

-- grant_claims: claims that have what they need.
UPDATE board_claims SET granted = true WHERE claim = ANY(%(claims)s::text[])

-- drop_claims: claims that are over.
DELETE FROM board_claims WHERE claim = ANY(%(claims)s::text[])

-- store_claims: new ones.
INSERT INTO board_claims SELECT * FROM json_populate_recordset(NULL::board_claims, %(rows)s)

-- drop_pauses: what goes on.
DELETE FROM board_pauses WHERE role = ANY(%(roles)s::text[])

-- store_pauses: what is paused.
INSERT INTO board_pauses SELECT * FROM json_populate_recordset(NULL::board_pauses, %(rows)s)

-- blocked: claims of a workflow that wait, who has what they need, how many who need the same came before, what is paused.
SELECT json_agg(json_build_object(
    'claim', mine,
    'held', (SELECT coalesce(json_agg(other ORDER BY other.queued), '[]') FROM board_claims AS other
             WHERE other.granted AND (other.task = '') = (mine.task = '')
               AND (mine.task = '' OR other.role = mine.role OR other.resources && mine.resources)),
    'ahead', (SELECT count(*) FROM board_claims AS other
              WHERE NOT other.granted AND (other.task = '') = (mine.task = '')
                AND (mine.task = '' OR other.resources && mine.resources)
                AND (-other.priority, other.queued) < (-mine.priority, mine.queued)),
    'paused', (SELECT coalesce(json_agg(pause ORDER BY role), '[]') FROM board_pauses AS pause
               WHERE role = '' OR (mine.task <> '' AND role = mine.role))))::text
FROM board_claims AS mine WHERE workflow = %(workflow)s AND task = ANY(%(tasks)s::text[]) AND NOT granted
