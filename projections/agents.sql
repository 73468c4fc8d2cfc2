-- load: the rows of these agents.
SELECT json_agg(found)::text FROM board_agents AS found WHERE name = ANY(%(names)s::text[])

-- store: new rows and changed ones.
INSERT INTO board_agents SELECT * FROM json_populate_recordset(NULL::board_agents, %(rows)s)
ON CONFLICT (name) DO UPDATE SET
    status = excluded.status, role = excluded.role, capacity = excluded.capacity, capabilities = excluded.capabilities,
    version = excluded.version, drained = excluded.drained, changed_at = excluded.changed_at

-- agents: all that have not left, those that are there first; what they hold, and when they were heard of.
SELECT json_agg(found)::text FROM (
    SELECT a.*, heard_at, coalesce(holding, 0) AS holding
    FROM board_agents AS a LEFT JOIN agents_heard ON agent = name
    LEFT JOIN (SELECT agent, count(*) AS holding FROM board_attempts
               WHERE ended_at IS NULL AND agent IS NOT NULL GROUP BY agent) AS held ON held.agent = name
    WHERE status <> 'left' ORDER BY status, role, name LIMIT %(limit)s) AS found

-- lacking: what is offered, and no agent is there to take it. Tests take a tester with nothing special.
SELECT json_agg(found)::text FROM (
    SELECT t.workflow, t.task, a.role, CASE a.purpose WHEN 'work' THEN t.capabilities ELSE '{}' END AS capabilities
    FROM board_tasks AS t JOIN board_attempts AS a USING (workflow, task, run)
    WHERE t.workflow = ANY(%(workflows)s::text[]) AND (%(tasks)s::text[] IS NULL OR t.task = ANY(%(tasks)s::text[]))
      AND t.status IN ('dispatched', 'verifying') AND a.agent IS NULL
      AND NOT EXISTS (SELECT FROM board_agents AS g WHERE g.role = a.role AND g.status = 'here' AND NOT g.drained
                      AND (a.purpose <> 'work' OR t.capabilities <@ g.capabilities))
    ORDER BY t.ordinal, t.created) AS found

-- heard: an agent was heard of; how it stands.
WITH noted AS (
    INSERT INTO agents_heard VALUES (%(agent)s, %(now)s)
    ON CONFLICT (agent) DO UPDATE SET heard_at = greatest(agents_heard.heard_at, excluded.heard_at))
SELECT status = 'lost', drained FROM board_agents WHERE name = %(agent)s

-- others: which of these runs are another agent's. A run's name begins with its task's.
SELECT workflow, run FROM unnest(%(workflows)s::text[], %(runs)s::text[]) AS asked (workflow, run)
WHERE EXISTS (SELECT FROM board_attempts AS a WHERE a.workflow = asked.workflow AND a.run = asked.run
              AND a.task = split_part(asked.run, '/', 1) AND a.agent <> %(agent)s)

-- silent: those taken to be there that nobody has heard of since a time, or since anybody listened.
SELECT name, greatest(heard_at, changed_at) FROM board_agents LEFT JOIN agents_heard ON agent = name
WHERE status = 'here' AND greatest(heard_at, changed_at, %(listening_since)s::double precision) <= %(before)s
ORDER BY name
