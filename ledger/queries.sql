-- head: where the ledger stands.
SELECT epoch, position, digest, origin FROM ledger_head

-- lock_head: the same, and nobody else appends until this transaction ends.
SELECT epoch, position, digest, origin FROM ledger_head FOR UPDATE

-- append: one group of events, if the head is still the one expected and every stream holds the version it is expected at.
-- Nothing is inserted otherwise. The scalar subquery is on purpose: it cannot become a join that scans the table.
WITH head AS (
    UPDATE ledger_head SET position = %(last)s, digest = %(digest)s
    WHERE epoch = %(epoch)s AND position = %(first)s - 1 AND digest = %(previous)s
      AND NOT EXISTS (
          SELECT FROM unnest(%(bases)s::text[], %(expected)s::int[]) AS base (stream, version)
          WHERE (SELECT true FROM events WHERE events.stream = base.stream AND events.version = base.version) IS NULL)
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
SELECT stream, coalesce((SELECT max(version) FROM events WHERE events.stream = asked.stream), 0)
FROM unnest(%(streams)s::text[]) AS asked (stream)

-- next_epoch: the JetStream stream of this epoch is given up; nothing happens if somebody else has done so already.
UPDATE ledger_head SET epoch = %(next)s WHERE epoch = %(given_up)s

-- read: what came after a position, at most up to another, in order.
SELECT * FROM events WHERE position > %(after)s AND position <= %(to)s ORDER BY position LIMIT %(limit)s

-- read_stream: what came after a version of one stream, in order.
SELECT * FROM events WHERE stream = %(stream)s AND version > %(after)s ORDER BY version LIMIT %(limit)s

-- find: the events of these ids that exist, in order.
SELECT * FROM events WHERE id = ANY(%(ids)s::uuid[]) ORDER BY position

-- answer: the events after a version of one stream that have the same cause, as far as versions go on.
SELECT * FROM events
WHERE stream = %(stream)s AND version > %(after)s AND version <= %(after)s + %(limit)s AND causation_id = %(cause)s
ORDER BY version
