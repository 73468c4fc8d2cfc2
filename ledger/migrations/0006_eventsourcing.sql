-- What applications of the eventsourcing library keep beside their events. These are events like any other.

CREATE TABLE es_tracking (
    application text   NOT NULL,
    upstream    text   NOT NULL,
    position    bigint NOT NULL,
    PRIMARY KEY (application, upstream)
);
COMMENT ON TABLE es_tracking IS 'How far an application, or a view, has processed the events of another.';

CREATE TABLE es_snapshots (
    log        text    NOT NULL,
    originator text    NOT NULL,
    version    integer NOT NULL,
    topic      text    NOT NULL,
    state      bytea   NOT NULL,
    PRIMARY KEY (log, originator, version)
);
COMMENT ON TABLE es_snapshots IS 'Aggregates as of a version: a short cut, made anew from the events. May be emptied.';

CREATE TABLE es_keys (
    id      uuid  PRIMARY KEY,
    subject text  NOT NULL UNIQUE,
    key     bytea NOT NULL CHECK (length(key) = 32)
);
COMMENT ON TABLE es_keys IS 'The key of each person whose data is encrypted in events. Without its row they cannot be read.';
-- The planner's statistics hold samples of what they describe.
ALTER TABLE es_keys ALTER COLUMN subject SET STATISTICS 0, ALTER COLUMN key SET STATISTICS 0;
