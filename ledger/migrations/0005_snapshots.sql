-- States of long streams, so that they need not be folded from their first event.

CREATE UNLOGGED TABLE snapshots (
    stream  text    PRIMARY KEY,
    version integer NOT NULL CHECK (version > 0),
    code    text    NOT NULL,
    digest  bytea   NOT NULL,
    state   bytea   NOT NULL
);
-- Compressing megabytes would cost more than it saves for rows that are replaced soon.
ALTER TABLE snapshots ALTER state SET STORAGE EXTERNAL;
COMMENT ON TABLE snapshots IS
    'The state of a stream after the event of this version, whose digest it names, as folded by this code. '
    'May be emptied at any time, and is by a crash (it is not in the WAL): the events are all that is needed.';
