-- create: where each view stands. `version` is that of the program's view which made its tables.
CREATE TABLE IF NOT EXISTS projections (
    name     text    PRIMARY KEY,
    version  integer NOT NULL,
    position bigint  NOT NULL,
    halted   text             -- why the event after `position` cannot be folded, NULL while it goes on
) WITH (fillfactor = 10)

-- widen: for tables that an earlier program made.
ALTER TABLE projections ADD COLUMN IF NOT EXISTS halted text

-- lock: one process at a time makes and drops tables; the tenant's schema is part of the lock.
SELECT pg_advisory_xact_lock(hashtextextended('projections ' || current_schema(), 0))

-- read: where a view stands.
SELECT name, version, position, halted FROM projections WHERE name = %(name)s

-- standings: where all of them stand.
SELECT name, version, position, halted FROM projections ORDER BY name

-- halt: nothing, if the cursor is elsewhere.
UPDATE projections SET halted = %(reason)s
WHERE name = %(name)s AND version = %(version)s AND position = %(position)s

-- rewind: the view starts at the beginning again. Its row is locked before its tables are, as in `advance`.
INSERT INTO projections VALUES (%(name)s, %(version)s, 0)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = 0, halted = NULL

-- advance: the cursor moves, unless it is not (or no longer) where this process left it.
-- Its transaction does not wait for the disk: a crash that takes it takes cursor and rows, and they are projected again.
UPDATE projections SET position = %(after)s, halted = NULL
WHERE name = %(name)s AND version = %(version)s AND position = %(before)s
RETURNING set_config('synchronous_commit', 'off', true)
