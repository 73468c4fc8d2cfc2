-- create: where each view stands. `version` is that of the program's view which made its tables.
CREATE TABLE IF NOT EXISTS projections (
    name     text    PRIMARY KEY,
    version  integer NOT NULL,
    position bigint  NOT NULL,
    halted   text,            -- why the event after `position` cannot be folded, NULL while it goes on
    built    integer NOT NULL DEFAULT 0 -- how often its tables were made: a process that knows other ones forgets them
) WITH (fillfactor = 10)

-- widen: for tables that an earlier program made.
ALTER TABLE projections ADD COLUMN IF NOT EXISTS halted text,
                        ADD COLUMN IF NOT EXISTS built integer NOT NULL DEFAULT 0

-- lock: one process at a time makes and drops tables; the tenant's schema is part of the lock.
SELECT pg_advisory_xact_lock(hashtextextended('projections ' || current_schema(), 0))

-- read: where a view stands.
SELECT name, version, position, halted, built FROM projections WHERE name = %(name)s

-- standings: where all of them stand.
SELECT name, version, position, halted, built FROM projections ORDER BY name

-- hold: the same, and the view stands there until this transaction ends.
SELECT name, version, position, halted, built FROM projections WHERE name = %(name)s FOR UPDATE

-- halt: nothing, if the cursor is elsewhere.
UPDATE projections SET halted = %(reason)s
WHERE name = %(name)s AND version = %(version)s AND position = %(position)s AND built = %(built)s

-- rewind: the view starts at the beginning again. Its row is locked before its tables are, as in `advance`.
INSERT INTO projections (name, version, position) VALUES (%(name)s, %(version)s, 0)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = 0, halted = NULL,
                                 built = projections.built + 1

-- advance: the cursor moves, unless it is not (or no longer) where this process left it.
-- Its transaction does not wait for the disk: a crash that takes it takes cursor and rows, and they are projected again.
UPDATE projections SET position = %(after)s, halted = NULL
WHERE name = %(name)s AND version = %(version)s AND position = %(before)s AND built = %(built)s
RETURNING set_config('synchronous_commit', 'off', true)

-- put: a view that was rewound stands elsewhere at once, with other tables.
UPDATE projections SET position = %(position)s WHERE name = %(name)s AND version = %(version)s

-- patient: a session whose statements and transactions take as long as they take, and that reads whole tables.
SELECT set_config('statement_timeout', '0', false), set_config('idle_in_transaction_session_timeout', '0', false),
       set_config('lock_timeout', '60s', false), set_config('synchronous_commit', 'off', false),
       set_config('client_min_messages', 'warning', false)

-- behind: how far each is behind the ledger.
SELECT p.name, p.version, p.position, greatest(h.position - p.position, 0),
       CASE WHEN h.position > p.position
            THEN round(extract(epoch FROM clock_timestamp() - e.recorded_at), 3)::double precision ELSE 0 END,
       halted
FROM projections AS p CROSS JOIN ledger_head AS h LEFT JOIN events AS e ON e.position = p.position + 1 ORDER BY p.name
