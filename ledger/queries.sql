-- session: where a connection finds its tables, its limits, and the role it acts as, if there is one that it may take.
-- Before Postgres 16 every member could take it.
SELECT set_config('search_path', %(path)s, false), set_config('timezone', 'UTC', false),
       set_config('lock_timeout', '2s', false), set_config('statement_timeout', '30s', false),
       set_config('idle_in_transaction_session_timeout', '5s', false),
       set_config('role', coalesce((
           SELECT rolname FROM pg_roles
           WHERE rolname = %(role)s AND pg_has_role(session_user, oid, CASE
               WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
       ), current_setting('role')), false)

-- head: where the ledger stands.
SELECT epoch, position, digest, origin FROM ledger_head

-- ledgers: the schemas in this database that hold a ledger.
SELECT nspname
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = 'ledger_head' AND relkind = 'r' AND starts_with(nspname, 'cairn_') ORDER BY nspname

-- lock_head: the same, and nobody else appends until this transaction ends.
SELECT epoch, position, digest, origin FROM ledger_head FOR UPDATE

-- append: one group of events, if the head is still the one expected, every stream is at the version it is expected at,
-- and none of the commands was recorded before. Nothing is inserted otherwise. What the partition that begins at `floor`
-- holds, its unique indices tell; so what was found there need not be looked for in older ones or in the archive.
-- The scalar subqueries are on purpose: they cannot become joins that scan the tables.
WITH head AS (
    UPDATE ledger_head SET position = %(last)s, digest = %(digest)s
    WHERE epoch = %(epoch)s AND position = %(first)s - 1 AND digest = %(previous)s
      AND NOT EXISTS (
          SELECT FROM unnest(%(bases)s::text[], %(expected)s::int[]) AS base (stream, version)
          WHERE (SELECT true FROM events WHERE events.stream = base.stream AND events.version = base.version
                                           AND position >= %(floor)s) IS NULL
            AND version <> greatest(0, (SELECT max(version) FROM events WHERE events.stream = base.stream),
                                    (SELECT version FROM archived_streams WHERE archived_streams.stream = base.stream)))
      AND NOT EXISTS (
          SELECT FROM unnest(%(commands)s::uuid[]) AS command (id)
          WHERE (SELECT true FROM events WHERE events.id = command.id AND position < %(floor)s) IS NOT NULL
             OR (SELECT true FROM archived_commands WHERE archived_commands.id = command.id) IS NOT NULL)
    RETURNING true
)
INSERT INTO events
SELECT %(first)s + ordinal - 1, stream, version, type, id, %(recorded_at)s,
       correlation_id, causation_id, actor, traceparent, state, digest
FROM head, unnest(%(stream)s::text[], %(version)s::int[], %(type)s::text[], %(id)s::uuid[], %(correlation_id)s::text[],
                  %(causation_id)s::text[], %(actor)s::text[], %(traceparent)s::text[], %(state)s::bytea[],
                  %(digests)s::bytea[])
     WITH ORDINALITY AS added (stream, version, type, id, correlation_id, causation_id, actor, traceparent, state,
                               digest, ordinal)

-- versions: the last version of each stream, 0 if it has none.
SELECT stream, greatest(0, (SELECT max(version) FROM events WHERE events.stream = asked.stream),
                        (SELECT version FROM archived_streams WHERE archived_streams.stream = asked.stream))
FROM unnest(%(streams)s::text[]) AS asked (stream)

-- next_epoch: the JetStream stream of this epoch is given up; nothing happens if somebody else has done so already.
UPDATE ledger_head SET epoch = %(next)s WHERE epoch = %(given_up)s

-- read: what came after a position, at most up to another, in order.
SELECT * FROM events WHERE position > %(after)s AND position <= %(to)s ORDER BY position LIMIT %(limit)s

-- read_stream: what came after a version of one stream, at most up to another, in order.
SELECT * FROM events WHERE stream = %(stream)s AND version > %(after)s AND version <= %(to)s
ORDER BY version LIMIT %(limit)s

-- find: the events of these ids that exist, in order.
SELECT * FROM events WHERE id = ANY(%(ids)s::uuid[]) ORDER BY position

-- pick: the events at these positions, in order.
SELECT * FROM events WHERE position = ANY(%(positions)s::bigint[]) ORDER BY position

-- answer: the events after a version of one stream that have the same cause, as far as versions go on.
SELECT * FROM events
WHERE stream = %(stream)s AND version > %(after)s AND version <= %(after)s + %(limit)s AND causation_id = %(cause)s
ORDER BY version

-- es_newest: the last event of each stream that has one in the table.
SELECT newest.* FROM unnest(%(streams)s::text[]) AS asked (stream) CROSS JOIN LATERAL (
    SELECT * FROM events WHERE events.stream = asked.stream ORDER BY version DESC LIMIT 1
) AS newest

-- es_notifications: what came after a position, up to another, in an application's streams; of these types, or of all.
SELECT * FROM events
WHERE position > %(after)s AND position <= %(to)s AND starts_with(stream, %(prefix)s)
  AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s::text[]))
ORDER BY position LIMIT %(limit)s

-- es_last: the position of an application's last event, if that is in the table.
SELECT position FROM events WHERE starts_with(stream, %(prefix)s) ORDER BY position DESC LIMIT 1

-- es_archived: the positions of an application's first and last archived event.
SELECT min(first), max(last) FROM archived_streams WHERE starts_with(stream, %(prefix)s)

-- es_track: an application has come this far; nothing happens if it was as far already.
INSERT INTO es_tracking VALUES (%(application)s, %(upstream)s, %(position)s)
ON CONFLICT (application, upstream) DO UPDATE SET position = excluded.position
    WHERE es_tracking.position < excluded.position
RETURNING position

-- es_tracked: how far an application has come.
SELECT position FROM es_tracking WHERE application = %(application)s AND upstream = %(upstream)s

-- es_keep_snapshots: snapshots of one log.
INSERT INTO es_snapshots
SELECT %(log)s, kept.* FROM unnest(%(originator)s::text[], %(version)s::int[], %(topic)s::text[], %(state)s::bytea[]) AS kept

-- es_snapshots: those of one aggregate after a version, up to another, in order.
SELECT version, topic, state FROM es_snapshots
WHERE log = %(log)s AND originator = %(originator)s AND version > %(after)s AND version <= %(to)s
ORDER BY version LIMIT %(limit)s

-- es_snapshots_back: the same, the last first.
SELECT version, topic, state FROM es_snapshots
WHERE log = %(log)s AND originator = %(originator)s AND version > %(after)s AND version <= %(to)s
ORDER BY version DESC LIMIT %(limit)s

-- es_new_key: a key for a subject, unless it has one.
INSERT INTO es_keys VALUES (%(id)s, %(subject)s, %(key)s) ON CONFLICT (subject) DO NOTHING

-- es_key_of: the key of a subject.
SELECT id, key FROM es_keys WHERE subject = %(subject)s

-- es_key: the key with this id.
SELECT key FROM es_keys WHERE id = %(id)s

-- es_erase: a subject has no key any more.
DELETE FROM es_keys WHERE subject = %(subject)s

-- es_scrub: neither the table's files nor its indexes hold what was deleted.
VACUUM (FULL) es_keys

-- snapshot: the state of a stream that this code has folded, the version it stands for and the digest of that event.
SELECT version, digest, state FROM snapshots WHERE stream = %(stream)s AND code = %(code)s

-- keep_snapshot: one for each stream: the newer replaces the older, and that of other code in any case.
INSERT INTO snapshots (stream, version, code, digest, state)
VALUES (%(stream)s, %(version)s, %(code)s, %(digest)s, %(state)s)
ON CONFLICT (stream) DO UPDATE
SET version = excluded.version, code = excluded.code, digest = excluded.digest, state = excluded.state
WHERE snapshots.version < excluded.version OR snapshots.code <> excluded.code

-- partition_for: the first and last position of the partition that holds a position; it is made if there is none.
SELECT first, last FROM partition_for(%(position)s)

-- partitions: all of them, in order, with what is known of those in the archive.
SELECT first, last, segment, sha256, previous, digest, archived_at FROM partitions ORDER BY first

-- archived: the partition that holds a position, if it is in the archive.
SELECT first, last, segment, sha256, previous, digest, archived_at
FROM (SELECT * FROM partitions WHERE first <= %(position)s ORDER BY first DESC LIMIT 1) AS holding
WHERE last >= %(position)s AND segment IS NOT NULL

-- archived_commands: where the first events of commands are, of those in the archive.
SELECT id, position FROM archived_commands WHERE id = ANY(%(ids)s::uuid[])

-- archived_stream: the last archived version of a stream, and the positions of its first and last archived event.
SELECT version, first, last FROM archived_streams WHERE stream = %(stream)s

-- closed: the partitions all of whose positions are taken and followed by another, that are not in the archive.
SELECT partitions.first, partitions.last FROM partitions, ledger_head
WHERE segment IS NULL AND last < position ORDER BY first

-- recorded_last: when the last of the events between two positions was recorded.
SELECT max(recorded_at) FROM events WHERE position BETWEEN %(first)s AND %(last)s

-- archive_lock: whether nobody else is archiving this ledger; until the connection ends nobody else will.
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))

-- archive_owner: whether this user may drop what holds the events, and whose that is.
SELECT pg_has_role(current_user, relowner, 'USAGE'), relowner::regrole::text FROM pg_class WHERE oid = 'events'::regclass

-- archive_partition: the partition is gone, and the segment known, when this transaction ends.
SELECT archive_partition(%(first)s, %(segment)s, %(sha256)s, %(previous)s, %(digest)s)

-- keep_commands: the first events of commands that go into the archive.
COPY archived_commands (id, position) FROM STDIN (FORMAT binary)

-- migrations: a row if the table of migrations can be read. The catalogue is asked, because it is never out of date:
-- what `to_regclass` remembers may be, for another process has just made the table.
SELECT FROM pg_class AS made JOIN pg_namespace AS schema ON schema.oid = made.relnamespace
WHERE nspname = %(schema)s AND relname = 'migrations' AND has_schema_privilege(schema.oid, 'USAGE')

-- roles: which of a tenant's roles are missing; whether this user may act as both, whether both have their rights,
-- whether this user may make roles. Before Postgres 16 every member could act as the role.
SELECT array(SELECT name FROM unnest(%(roles)s::text[]) AS name WHERE to_regrole(name) IS NULL),
       coalesce(bool_and(pg_has_role(session_user, oid, CASE WHEN current_setting('server_version_num')::int < 160000
                                                             THEN 'MEMBER' ELSE 'SET' END)), false),
       coalesce(bool_and(has_schema_privilege(oid, to_regnamespace(%(schema)s)::oid, 'USAGE')), false),
       (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = session_user)
FROM pg_roles WHERE rolname = ANY(%(roles)s)

-- changeable: whether the role that appends could change events.
SELECT has_table_privilege(rolname, to_regclass(%(schema)s || '.events')::oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')
FROM pg_roles WHERE rolname = %(schema)s

-- schemas: the tenants' schemas that this user may read.
SELECT nspname FROM pg_namespace
WHERE starts_with(nspname, %(prefix)s) AND has_schema_privilege(oid, 'USAGE')
  AND to_regclass(quote_ident(nspname) || '.ledger_head') IS NOT NULL
ORDER BY nspname

-- size: bytes on disk of all tables and indexes in these schemas.
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relkind IN ('r', 'm') AND relnamespace = ANY(SELECT to_regnamespace(name) FROM unnest(%(schemas)s::text[]) AS name)

-- kept: how many events Postgres holds: what lies before the first of them is in the archive.
SELECT head.position - coalesce((SELECT min(position) FROM events), head.position + 1) + 1 FROM ledger_head AS head
