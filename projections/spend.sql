-- create: sums, and of each task of a plan that was dispatched the runs that they are made of, to correct them later.
CREATE TABLE spend (
    workflow          text NOT NULL,
    role              text NOT NULL,    -- of the run; of what is accepted, of the task
    model             text NOT NULL,    -- '': nobody said it
    day               date NOT NULL,    -- UTC
    runs              bigint NOT NULL,  -- those of tests too
    attempts          bigint NOT NULL,
    seconds           numeric(40, 3) NOT NULL,
    test_seconds      numeric(40, 3) NOT NULL,
    input_total       numeric(40) NOT NULL,
    cache_read        numeric(40) NOT NULL,
    cache_write       numeric(40) NOT NULL,
    output            numeric(40) NOT NULL,
    tokens_unknown    bigint NOT NULL,
    cost_reported     numeric(40, 9) NOT NULL, -- US dollars
    cost_computed     numeric(40, 9) NOT NULL,
    cost_unknown      bigint NOT NULL,
    calls_tokens      numeric(40) NOT NULL, -- of attempts whose own sum is unknown
    calls_usd         numeric(40, 9) NOT NULL,
    accepted          bigint NOT NULL,  -- tasks; what all attempts at them have cost follows
    accepted_attempts bigint NOT NULL,
    accepted_seconds  numeric(40, 3) NOT NULL,
    accepted_cost     numeric(40, 9) NOT NULL,
    accepted_unknown  bigint NOT NULL,
    PRIMARY KEY (workflow, role, model, day)
) WITH (fillfactor = 70);
CREATE INDEX spend_day ON spend (day);

CREATE TABLE spend_tasks (
    workflow text NOT NULL,
    task     text NOT NULL,
    role     text NOT NULL,
    accepted date,
    runs     jsonb NOT NULL,            -- projections.spend_fold.SpentRun, its branches' among them
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70)

-- drop: all of it, for a replay.
DROP TABLE IF EXISTS spend, spend_tasks

-- load_tasks: the rows of these tasks.
SELECT json_agg(found)::text FROM (
    SELECT t.* FROM unnest(%(workflows)s::text[], %(tasks)s::text[]) AS asked (workflow, task)
    JOIN spend_tasks AS t USING (workflow, task)) AS found

-- store_tasks: new rows and changed ones.
INSERT INTO spend_tasks SELECT * FROM json_populate_recordset(NULL::spend_tasks, %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET role = excluded.role, accepted = excluded.accepted, runs = excluded.runs

-- add: what has come to the sums, or was taken from them.
INSERT INTO spend AS s SELECT * FROM json_populate_recordset(NULL::spend, %(rows)s)
ON CONFLICT (workflow, role, model, day) DO UPDATE SET
    runs = s.runs + excluded.runs, attempts = s.attempts + excluded.attempts, seconds = s.seconds + excluded.seconds,
    test_seconds = s.test_seconds + excluded.test_seconds, input_total = s.input_total + excluded.input_total,
    cache_read = s.cache_read + excluded.cache_read, cache_write = s.cache_write + excluded.cache_write,
    output = s.output + excluded.output, tokens_unknown = s.tokens_unknown + excluded.tokens_unknown,
    cost_reported = s.cost_reported + excluded.cost_reported, cost_computed = s.cost_computed + excluded.cost_computed,
    cost_unknown = s.cost_unknown + excluded.cost_unknown, calls_tokens = s.calls_tokens + excluded.calls_tokens,
    calls_usd = s.calls_usd + excluded.calls_usd, accepted = s.accepted + excluded.accepted,
    accepted_attempts = s.accepted_attempts + excluded.accepted_attempts,
    accepted_seconds = s.accepted_seconds + excluded.accepted_seconds,
    accepted_cost = s.accepted_cost + excluded.accepted_cost,
    accepted_unknown = s.accepted_unknown + excluded.accepted_unknown

-- prune: rows from which all has been taken, as when an agent corrects the name of its model.
DELETE FROM spend AS s USING json_populate_recordset(NULL::spend, %(rows)s) AS t
WHERE (s.workflow, s.role, s.model, s.day) = (t.workflow, t.role, t.model, t.day) AND s.runs = 0 AND s.accepted = 0

-- spend: the sums by what is asked for, in the order of day, workflow, role and model; of tasks only where it is `whole`.
SELECT json_agg(found)::text FROM (
    SELECT * FROM (
        SELECT CASE WHEN 'day' = ANY(%(by)s::text[]) THEN day END AS day,
               CASE WHEN 'workflow' = ANY(%(by)s::text[]) THEN workflow END AS workflow,
               CASE WHEN 'role' = ANY(%(by)s::text[]) THEN role END AS role,
               CASE WHEN 'model' = ANY(%(by)s::text[]) THEN nullif(model, '') END AS model,
               sum(attempts) AS attempts, sum(seconds) AS seconds, sum(test_seconds) AS test_seconds,
               sum(input_total) AS input_total, sum(cache_read) AS cache_read, sum(cache_write) AS cache_write,
               sum(output) AS output, sum(tokens_unknown) AS tokens_unknown, sum(cost_reported) AS cost_reported_usd,
               sum(cost_computed) AS cost_computed_usd, sum(cost_unknown) AS cost_unknown,
               sum(calls_tokens) AS calls_tokens, sum(calls_usd) AS calls_usd,
               CASE WHEN %(whole)s THEN sum(accepted) END AS accepted,
               CASE WHEN %(whole)s THEN sum(accepted_attempts) END AS accepted_attempts,
               CASE WHEN %(whole)s THEN sum(accepted_seconds) END AS accepted_seconds,
               CASE WHEN %(whole)s THEN sum(accepted_cost) END AS accepted_cost_usd,
               CASE WHEN %(whole)s THEN sum(accepted_unknown) END AS accepted_cost_unknown
        FROM spend
        WHERE day BETWEEN coalesce(%(since)s::date, '-infinity') AND coalesce(%(until)s::date, 'infinity')
          AND workflow = coalesce(%(workflow)s::text, workflow) AND role = coalesce(%(role)s::text, role)
          AND model = coalesce(%(model)s::text, model) AND (runs > 0 OR %(whole)s)
        GROUP BY 1, 2, 3, 4) AS grouped
    WHERE ARRAY[coalesce(day::text, ''), coalesce(workflow, ''), coalesce(role, ''), coalesce(model, '')]
          > %(after)s::text[]
    ORDER BY coalesce(day::text, ''), coalesce(workflow, ''), coalesce(role, ''), coalesce(model, '')
    LIMIT %(limit)s) AS found
