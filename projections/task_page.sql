-- task_page: some of a workflow's tasks after one of them, in the plan's order; their attempts; and of the
-- tasks that say what these wait for (dependencies; the branches of those that have some) what is needed of them.
WITH page AS MATERIALIZED (
    SELECT * FROM board_tasks
    WHERE workflow = %(workflow)s AND (%(after)s::text IS NULL OR (ordinal, created, task) > (
        SELECT ordinal, created, task FROM board_tasks WHERE workflow = %(workflow)s AND task = %(after)s))
    ORDER BY ordinal, created, task LIMIT %(limit)s
), branches AS MATERIALIZED (
    SELECT task, parent FROM board_tasks
    WHERE workflow = %(workflow)s AND depth > 0 AND EXISTS (SELECT FROM page WHERE status = 'branched')
), kin AS (
    SELECT unnest(dependencies) AS task FROM page UNION SELECT task FROM page
    UNION SELECT task FROM branches UNION SELECT parent FROM branches
)
SELECT json_build_object(
    'workflow', found,
    'known', %(after)s::text IS NULL OR EXISTS (SELECT FROM board_tasks WHERE workflow = %(workflow)s AND task = %(after)s),
    'tasks', (SELECT coalesce(json_agg(p ORDER BY ordinal, created, task), '[]') FROM page AS p),
    'attempts', (SELECT coalesce(json_agg(a ORDER BY dispatched), '[]') FROM board_attempts AS a
                 WHERE a.workflow = %(workflow)s AND a.task IN (SELECT task FROM page)),
    'kin', (SELECT coalesce(json_agg(json_build_object(
                'task', t.task, 'status', t.status, 'parent', t.parent, 'depth', t.depth)), '[]')
            FROM kin JOIN board_tasks AS t ON t.workflow = %(workflow)s AND t.task = kin.task))::text
FROM board_workflows AS found WHERE workflow = %(workflow)s
