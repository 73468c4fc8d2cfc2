-- create: where each view stands. `version` is that of the program's view which made its tables.
CREATE TABLE IF NOT EXISTS projections (
    name     text    PRIMARY KEY,
    version  integer NOT NULL,
    position bigint  NOT NULL
) WITH (fillfactor = 10)

-- lock: one process at a time makes and drops tables; the tenant's schema is part of the lock.
SELECT pg_advisory_xact_lock(hashtextextended('projections ' || current_schema(), 0))

-- read: version and position of a view.
SELECT version, position FROM projections WHERE name = %(name)s

-- rewind: the view starts at the beginning again. Its row is locked before its tables are, as in `advance`.
INSERT INTO projections VALUES (%(name)s, %(version)s, 0)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = 0

-- advance: the cursor moves, unless it is not (or no longer) where this process left it.
-- Its transaction does not wait for the disk: a crash that takes it takes cursor and rows, and they are projected again.
UPDATE projections SET position = %(after)s
WHERE name = %(name)s AND version = %(version)s AND position = %(before)s
RETURNING set_config('synchronous_commit', 'off', true)
