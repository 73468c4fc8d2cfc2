-- The ledger of one tenant. Everything here lives in the tenant's schema, which is first on the search path.

CREATE TABLE ledger_head (
    one_row  boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    epoch    integer NOT NULL DEFAULT 1 CHECK (epoch > 0),
    position bigint  NOT NULL DEFAULT 0 CHECK (position >= 0),
    digest   bytea   NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(digest) = 32),
    origin   uuid    NOT NULL DEFAULT gen_random_uuid()
) WITH (fillfactor = 10);
COMMENT ON TABLE ledger_head IS
    'One row, locked by every append until its commit: that is why positions have no gaps and follow commit order. '
    'origin tells this ledger from any other; epoch counts the JetStream streams that have carried it.';
INSERT INTO ledger_head DEFAULT VALUES;

CREATE TABLE events (
    position       bigint      NOT NULL CONSTRAINT events_position PRIMARY KEY,
    stream         text        NOT NULL,
    version        integer     NOT NULL CHECK (version > 0),
    type           text        NOT NULL,
    id             uuid        NOT NULL CONSTRAINT events_id UNIQUE,
    recorded_at    timestamptz NOT NULL,
    correlation_id text,
    causation_id   text,
    actor          text        NOT NULL,
    traceparent    text,
    state          bytea       NOT NULL,
    digest         bytea       NOT NULL,
    CONSTRAINT events_stream_version UNIQUE (stream, version)
);
COMMENT ON TABLE events IS
    'What has happened. state holds the exact bytes; digest = sha256(previous digest || canonical envelope || state).';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of %.% refused: what has happened is never changed. Append an event that corrects it.',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER events_are_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER head_is_never_removed BEFORE DELETE OR TRUNCATE ON ledger_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- ALWAYS: session_replication_role = replica, which restore tools set, must not switch them off.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed;
ALTER TABLE ledger_head ENABLE ALWAYS TRIGGER head_is_never_removed;

CREATE VIEW events_readable AS
    SELECT position, stream, version, type, id, recorded_at, correlation_id, causation_id, actor, traceparent,
           convert_from(state, 'UTF8')::json AS event, encode(digest, 'hex') AS digest
    FROM events;
COMMENT ON VIEW events_readable IS 'The events for people: the payload as JSON, the digest in hex.';
