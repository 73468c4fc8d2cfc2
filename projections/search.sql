-- create: what can be found. `words` are made by `search_text`, with one lexeme `field:value` for each field.
-- There is no index by which to go through documents in their order: a query always goes through those of its words.
CREATE TABLE search_documents (
    id       bigint NOT NULL,   -- position of the event that made it, and its place among those of that event
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
    words    tsvector NOT NULL,
    PRIMARY KEY (workflow, task, name)
);
CREATE INDEX search_words ON search_documents USING gin (words) WITH (gin_pending_list_limit = 1024)

-- drop: all of it.
DROP TABLE IF EXISTS search_documents

-- load: the documents of these workflows, tasks and agents, with the asks that are open.
SELECT json_agg(json_build_object(
    'id', id, 'type', type, 'workflow', workflow, 'task', task, 'name', name, 'title', title, 'status', status,
    'role', role, 'agents', agents, 'failures', failures, 'texts', texts))::text
FROM unnest(%(workflows)s::text[], %(tasks)s::text[]) AS wanted (workflow, task)
JOIN search_documents USING (workflow, task)
WHERE type <> 'ask' OR status = 'open'

-- store: new rows and changed ones.
INSERT INTO search_documents SELECT * FROM json_populate_recordset(NULL::search_documents, %(rows)s)
ON CONFLICT (workflow, task, name) DO UPDATE SET
    title = excluded.title, status = excluded.status, role = excluded.role, agents = excluded.agents,
    failures = excluded.failures, texts = excluded.texts, words = excluded.words

-- find: a page, by rank, of the newest that match. `least` is the oldest of these, if there may be older ones.
WITH newest AS MATERIALIZED (
    SELECT id, ctid AS place FROM search_documents
    WHERE words @@ %(all)s::tsquery AND id <= %(newest)s
    ORDER BY id DESC LIMIT %(window)s),
ranked AS MATERIALIZED (
    SELECT newest.*, (coalesce(ts_rank(words, %(ranked)s::tsquery), 0) * 1e6)::bigint AS rank
    FROM newest JOIN search_documents AS found ON found.ctid = newest.place),
page AS MATERIALIZED (
    SELECT * FROM ranked WHERE (rank, id) < (%(rank)s, %(id)s) ORDER BY rank DESC, id DESC LIMIT %(limit)s)
SELECT json_build_object(
    'least', (SELECT CASE WHEN count(*) = %(window)s THEN min(id) END FROM newest),
    'documents', (SELECT coalesce(json_agg(json_build_object('rank', rank, 'document', json_build_object(
        'id', found.id, 'type', type, 'workflow', workflow, 'task', task, 'name', name, 'title', title,
        'status', status, 'role', role, 'agents', agents, 'failures', failures, 'texts', texts))
        ORDER BY rank DESC, page.id DESC), '[]')
        FROM page JOIN search_documents AS found ON found.ctid = page.place))::text
