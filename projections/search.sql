-- create: what can be found, numbered in the order in which it was made. `words` is made of texts that `search_text` has
-- cut into words, with one lexeme `field:value` for each field; it is read whole for each rank, so it is not compressed.
CREATE TABLE search_documents (
    number   bigint PRIMARY KEY,
    position bigint NOT NULL,   -- of the event that made it
    type     text NOT NULL,
    workflow text NOT NULL,     -- '' of an agent
    task     text NOT NULL,     -- '' of a workflow; of an agent its name
    name     text NOT NULL,     -- of an ask or an agent, else ''
    title    text NOT NULL,
    status   text NOT NULL,
    role     text NOT NULL,
    agents   json NOT NULL,
    failures json NOT NULL,
    texts    json NOT NULL,     -- pairs of where and what
    words    tsvector NOT NULL
);
ALTER TABLE search_documents ALTER COLUMN words SET STORAGE EXTERNAL;
CREATE INDEX search_subjects ON search_documents (workflow, task);
CREATE INDEX search_words ON search_documents USING gin (words) WITH (gin_pending_list_limit = 1024)

-- drop: all of it.
DROP TABLE IF EXISTS search_documents

-- last: the number of the newest document.
SELECT coalesce(max(number), 0) FROM search_documents

-- load: the documents of these workflows, tasks and agents, with the asks that are open.
SELECT json_agg(json_build_object(
    'number', number, 'position', position, 'type', type, 'workflow', workflow, 'task', task, 'name', name,
    'title', title, 'status', status, 'role', role, 'agents', agents, 'failures', failures, 'texts', texts))::text
FROM unnest(%(workflows)s::text[], %(tasks)s::text[]) AS wanted (workflow, task)
JOIN search_documents USING (workflow, task)
WHERE type <> 'ask' OR status = 'open'

-- store: new rows and changed ones.
INSERT INTO search_documents
SELECT number, position, type, workflow, task, name, title, status, role, agents, failures, texts,
       setweight(to_tsvector('simple', a), 'A') || setweight(to_tsvector('simple', b), 'B')
       || setweight(to_tsvector('simple', c), 'C') || to_tsvector('simple', d) || array_to_tsvector(facts)
FROM json_to_recordset(%(rows)s) AS new (
    number bigint, position bigint, type text, workflow text, task text, name text, title text, status text, role text,
    agents json, failures json, texts json, a text, b text, c text, d text, facts text[])
ON CONFLICT (number) DO UPDATE SET
    title = excluded.title, status = excluded.status, role = excluded.role, agents = excluded.agents,
    failures = excluded.failures, texts = excluded.texts, words = excluded.words

-- plan: how the next statement of this transaction is done: never by going through everything; and among the newest
-- documents not by the index of words, which for the prefix of many words takes longer than reading these few.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', %(bitmaps)s, true)

-- find: of the documents from `least` to `newest` the newest that match, and of these a page by rank. In the place of
-- {number} stands how the range is asked for.
WITH asked AS MATERIALIZED (
    SELECT to_tsquery('simple', %(ranked)s) AS ranked),
matching AS MATERIALIZED (
    SELECT number FROM search_documents
    WHERE words @@ (to_tsquery('simple', %(words)s) && %(facts)s::tsquery)
      AND {number} BETWEEN %(least)s AND %(newest)s
    ORDER BY {number} DESC LIMIT %(window)s),
ranked AS MATERIALIZED (
    SELECT number, (ts_rank(words, asked.ranked) * 1e6)::bigint AS rank
    FROM asked, matching JOIN search_documents AS found USING (number)),
page AS MATERIALIZED (
    SELECT * FROM ranked WHERE (rank, number) < (%(rank)s, %(number)s) ORDER BY rank DESC, number DESC LIMIT %(limit)s)
SELECT json_build_object(
    'matching', (SELECT count(*) FROM matching),
    'oldest', (SELECT min(number) FROM matching),
    'documents', (SELECT coalesce(json_agg(json_build_object('rank', rank, 'document', json_build_object(
        'number', number, 'position', position, 'type', type, 'workflow', workflow, 'task', task, 'name', name,
        'title', title, 'status', status, 'role', role, 'agents', agents, 'failures', failures, 'texts', texts))
        ORDER BY rank DESC, number DESC), '[]')
        FROM page JOIN search_documents AS found USING (number)))::text
