-- create: sums by workflow, role and day (UTC); and of each task that somebody works on what its events do not say.
CREATE TABLE quality (
    workflow      text NOT NULL,
    role          text NOT NULL,    -- whose work it was, tests of that work among it
    day           date NOT NULL,
    verified      bigint NOT NULL,  -- runs of tests
    passed        bigint NOT NULL,
    accepted      bigint NOT NULL,  -- tasks of the plan
    first         bigint NOT NULL,  -- of these, no attempt has failed
    failed        bigint NOT NULL,
    retries       bigint NOT NULL,
    branches      bigint NOT NULL,
    covered       bigint NOT NULL,  -- receipts that tell a coverage
    coverage_sum  numeric(40, 2) NOT NULL, -- percent
    coverage_last double precision,
    coverage_at   bigint,           -- position
    PRIMARY KEY (workflow, role, day)
) WITH (fillfactor = 70);
CREATE INDEX quality_day ON quality (day);

CREATE TABLE quality_findings (
    workflow text NOT NULL,
    role     text NOT NULL,
    day      date NOT NULL,
    kind     text NOT NULL,
    severity text NOT NULL,
    number   bigint NOT NULL,
    PRIMARY KEY (workflow, role, day, kind, severity)
) WITH (fillfactor = 70);
CREATE INDEX quality_findings_day ON quality_findings (day);

CREATE TABLE quality_tasks (
    workflow text NOT NULL,
    task     text NOT NULL,
    role     text NOT NULL,         -- of the last attempt
    run      text,                  -- that is out
    judged   text NOT NULL,         -- role whose work the tests run on
    spoiled  boolean NOT NULL,      -- an attempt has failed
    PRIMARY KEY (workflow, task)
) WITH (fillfactor = 70)

-- drop: all of it, for a replay.
DROP TABLE IF EXISTS quality, quality_findings, quality_tasks

-- load_tasks: the rows of these tasks.
SELECT json_agg(found)::text FROM (
    SELECT t.* FROM unnest(%(workflows)s::text[], %(tasks)s::text[]) AS asked (workflow, task)
    JOIN quality_tasks AS t USING (workflow, task)) AS found

-- store_tasks: new rows and changed ones.
INSERT INTO quality_tasks SELECT * FROM json_populate_recordset(NULL::quality_tasks, %(rows)s)
ON CONFLICT (workflow, task) DO UPDATE SET
    role = excluded.role, run = excluded.run, judged = excluded.judged, spoiled = excluded.spoiled

-- add: what has come to the sums.
INSERT INTO quality AS q SELECT * FROM json_populate_recordset(NULL::quality, %(rows)s)
ON CONFLICT (workflow, role, day) DO UPDATE SET
    verified = q.verified + excluded.verified, passed = q.passed + excluded.passed,
    accepted = q.accepted + excluded.accepted, first = q.first + excluded.first, failed = q.failed + excluded.failed,
    retries = q.retries + excluded.retries, branches = q.branches + excluded.branches,
    covered = q.covered + excluded.covered, coverage_sum = q.coverage_sum + excluded.coverage_sum,
    coverage_last = coalesce(excluded.coverage_last, q.coverage_last),
    coverage_at = coalesce(excluded.coverage_at, q.coverage_at)

-- add_findings: what was found besides.
INSERT INTO quality_findings AS q SELECT * FROM json_populate_recordset(NULL::quality_findings, %(rows)s)
ON CONFLICT (workflow, role, day, kind, severity) DO UPDATE SET number = q.number + excluded.number

-- quality: the sums by what is asked for, in the order of day, workflow and role; findings by kind, then severity.
WITH within AS (
    SELECT coalesce(%(since)s::date, '-infinity') AS since, coalesce(%(until)s::date, 'infinity') AS until
), sums AS (
    SELECT CASE WHEN 'day' = ANY(%(by)s::text[]) THEN day END AS day,
           CASE WHEN 'workflow' = ANY(%(by)s::text[]) THEN workflow END AS workflow,
           CASE WHEN 'role' = ANY(%(by)s::text[]) THEN role END AS role,
           sum(verified) AS verified, sum(passed) AS passed, sum(accepted) AS accepted, sum(first) AS first,
           sum(failed) AS failed, sum(retries) AS retries, sum(branches) AS branches, sum(covered) AS covered,
           round(sum(coverage_sum) / nullif(sum(covered), 0), 2) AS coverage_mean,
           (array_agg(coverage_last ORDER BY coverage_at DESC) FILTER (WHERE coverage_at IS NOT NULL))[1] AS coverage_last
    FROM quality, within
    WHERE day BETWEEN since AND until AND workflow = coalesce(%(workflow)s::text, workflow)
      AND role = coalesce(%(role)s::text, role)
    GROUP BY 1, 2, 3
), found AS (
    SELECT day, workflow, role, json_object_agg(kind, severities) AS findings FROM (
        SELECT day, workflow, role, kind, json_object_agg(severity, number) AS severities FROM (
            SELECT CASE WHEN 'day' = ANY(%(by)s::text[]) THEN day END AS day,
                   CASE WHEN 'workflow' = ANY(%(by)s::text[]) THEN workflow END AS workflow,
                   CASE WHEN 'role' = ANY(%(by)s::text[]) THEN role END AS role, kind, severity, sum(number) AS number
            FROM quality_findings, within
            WHERE day BETWEEN since AND until AND workflow = coalesce(%(workflow)s::text, workflow)
              AND role = coalesce(%(role)s::text, role)
            GROUP BY 1, 2, 3, 4, 5) AS counted
        GROUP BY 1, 2, 3, 4) AS kinds
    GROUP BY 1, 2, 3)
SELECT json_agg(rows)::text FROM (
    SELECT sums.*, coalesce(found.findings, '{}') AS findings
    FROM sums LEFT JOIN found ON (sums.day, sums.workflow, sums.role) IS NOT DISTINCT FROM
                                 (found.day, found.workflow, found.role)
    WHERE ARRAY[coalesce(sums.day::text, ''), coalesce(sums.workflow, ''), coalesce(sums.role, '')] > %(after)s::text[]
    ORDER BY coalesce(sums.day::text, ''), coalesce(sums.workflow, ''), coalesce(sums.role, '')
    LIMIT %(limit)s) AS rows
