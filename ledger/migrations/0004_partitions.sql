-- `events` in partitions by ranges of positions, and what is kept of those whose events were moved to the archive.
-- An index of a partitioned table cannot be unique without the position: ids and versions are unique within a partition
-- by its own indices, and across partitions because an append asks, under the head's lock, for what the older ones hold.

ALTER TABLE ledger_head ADD COLUMN partition_events bigint NOT NULL DEFAULT 10000000 CHECK (partition_events > 0);
COMMENT ON COLUMN ledger_head.partition_events IS
    'Positions in a partition made from now on; at creation, cairn.partition_events of the connection that creates.';
UPDATE ledger_head SET partition_events = current_setting('cairn.partition_events', true)::bigint
    WHERE current_setting('cairn.partition_events', true) <> '';

CREATE TABLE partitions (
    first       bigint PRIMARY KEY CHECK (first > 0),
    last        bigint NOT NULL CHECK (last >= first),
    segment     text UNIQUE,
    sha256      bytea,
    previous    bytea,
    digest      bytea,
    archived_at timestamptz,
    CHECK (num_nulls(segment, sha256, previous, digest, archived_at) IN (0, 5))
);
COMMENT ON TABLE partitions IS
    'Every range of positions and where its events are: in the table events_from_<first>, or, if segment names one, in '
    'that file of the archive, whose sha256 is given. previous is the digest before the first event, digest the last.';

CREATE TABLE archived_commands (
    id       uuid   PRIMARY KEY,
    position bigint NOT NULL
);
COMMENT ON TABLE archived_commands IS
    'Of the events in the archive the first of each command: a repeat is recognised for as long as the ledger exists.';

CREATE TABLE archived_streams (
    stream  text    PRIMARY KEY,
    version integer NOT NULL,
    first   bigint  NOT NULL,
    last    bigint  NOT NULL
);
COMMENT ON TABLE archived_streams IS
    'The last archived version of each stream, and the positions of its first and last archived event.';

CREATE TRIGGER partitions_are_never_forgotten BEFORE DELETE OR TRUNCATE ON partitions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER commands_are_never_forgotten BEFORE UPDATE OR DELETE OR TRUNCATE ON archived_commands
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER streams_are_never_forgotten BEFORE DELETE OR TRUNCATE ON archived_streams
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE partitions ENABLE ALWAYS TRIGGER partitions_are_never_forgotten;
ALTER TABLE archived_commands ENABLE ALWAYS TRIGGER commands_are_never_forgotten;
ALTER TABLE archived_streams ENABLE ALWAYS TRIGGER streams_are_never_forgotten;

-- What there is becomes the first partition, as it is; its last position is a multiple of the size.
DROP VIEW events_readable;
ALTER TABLE events RENAME TO events_from_1;
ALTER TABLE events_from_1 RENAME CONSTRAINT events_position TO events_from_1_position;
ALTER TABLE events_from_1 RENAME CONSTRAINT events_id TO events_from_1_id;
ALTER TABLE events_from_1 RENAME CONSTRAINT events_stream_version TO events_from_1_stream_version;
CREATE TABLE events (
    LIKE events_from_1 INCLUDING CONSTRAINTS INCLUDING STORAGE,
    CONSTRAINT events_position PRIMARY KEY (position)
) PARTITION BY RANGE (position);
COMMENT ON TABLE events IS
    'What has happened. state holds the exact bytes; digest = sha256(previous digest || canonical envelope || state).';
COMMENT ON TABLE events_from_1 IS NULL;
SELECT guard('events');
-- Rights are given on `events`; those on what was it until now would let their holders past it.
DO $$ DECLARE held record; BEGIN
    FOR held IN SELECT DISTINCT grantee::regrole::text AS role FROM pg_class, aclexplode(relacl)
                WHERE pg_class.oid = 'events_from_1'::regclass AND grantee NOT IN (0, relowner) LOOP
        EXECUTE format('REVOKE ALL ON events_from_1 FROM %s', held.role);
    END LOOP;
END $$;

INSERT INTO partitions (first, last)
    SELECT 1, partition_events * greatest(1, (position + partition_events - 1) / partition_events) FROM ledger_head;
DO $$ BEGIN
    EXECUTE format('ALTER TABLE events ATTACH PARTITION events_from_1 FOR VALUES FROM (1) TO (%s)',
        (SELECT last + 1 FROM partitions));
END $$;

CREATE VIEW events_readable AS
    SELECT position, stream, version, type, id, recorded_at, correlation_id, causation_id, actor, traceparent,
           convert_from(state, 'UTF8')::json AS event, encode(digest, 'hex') AS digest
    FROM events;
COMMENT ON VIEW events_readable IS 'The events for people: the payload as JSON, the digest in hex.';

-- The owner's rights, so that a role that may only append can have its next partition: it can do no more with them than
-- that. ATTACH, and not PARTITION OF, because it holds up neither appends nor reads.
CREATE FUNCTION partition_for(wanted bigint, OUT first bigint, OUT last bigint) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    head ledger_head;
    name text;
BEGIN
    SELECT p.first, p.last INTO first, last FROM partitions p WHERE p.first <= wanted ORDER BY p.first DESC LIMIT 1;
    IF wanted <= last THEN
        RETURN;
    END IF;
    SELECT * INTO head FROM ledger_head;
    IF wanted IS NULL OR wanted < 1 OR wanted > head.position + 2 * head.partition_events + 1000000 THEN
        RAISE EXCEPTION 'No partition for position %: the head is at %.', wanted, head.position
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE;
    LOOP
        -- Again: whoever held the lock before may have made it.
        SELECT p.first, p.last INTO STRICT first, last FROM partitions p ORDER BY p.first DESC LIMIT 1;
        EXIT WHEN wanted <= last;
        first := last + 1;
        last := head.partition_events * ((first - 1) / head.partition_events + 1);
        name := 'events_from_' || first;
        EXECUTE format('CREATE TABLE %1$I (LIKE events INCLUDING CONSTRAINTS INCLUDING STORAGE,'
            ' CONSTRAINT %2$I PRIMARY KEY (position), CONSTRAINT %3$I UNIQUE (id),'
            ' CONSTRAINT %4$I UNIQUE (stream, version))',
            name, name || '_position', name || '_id', name || '_stream_version');
        PERFORM guard(name::regclass);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', name, first, last + 1);
        INSERT INTO partitions (first, last) VALUES (partition_for.first, partition_for.last);
    END LOOP;
    SELECT p.first, p.last INTO STRICT first, last FROM partitions p WHERE wanted BETWEEN p.first AND p.last;
END $$;
REVOKE ALL ON FUNCTION partition_for(bigint) FROM PUBLIC;
COMMENT ON FUNCTION partition_for IS
    'The partition that holds a position; it, and what is missing before it, is made if it does not exist yet.';

-- Nobody but the owner may. One transaction: the segment is known and the partition is gone, or neither. A lock that is
-- not had at once is let go between tries, because every append and read queues up behind whoever waits for it.
CREATE FUNCTION archive_partition(wanted bigint, segment text, sha256 bytea, previous bytea, digest bytea)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'events_from_' || wanted;
BEGIN
    -- Waits for a vacuum of it, and keeps the next one out, while nobody is held up yet.
    EXECUTE format('LOCK TABLE %I IN SHARE UPDATE EXCLUSIVE MODE', name);
    EXECUTE format('INSERT INTO archived_streams AS known (stream, version, first, last)'
        ' SELECT stream, max(version), min(position), max(position) FROM %I GROUP BY stream'
        ' ON CONFLICT (stream) DO UPDATE SET version = excluded.version, last = excluded.last', name);
    UPDATE partitions AS p SET segment = archive_partition.segment, sha256 = archive_partition.sha256,
            previous = archive_partition.previous, digest = archive_partition.digest, archived_at = now()
        WHERE p.first = wanted AND p.segment IS NULL
            AND p.last < (SELECT head.position FROM ledger_head AS head);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Partition % is archived already, or not closed.', name
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    FOR try IN 1 .. 200 LOOP
        BEGIN
            SET LOCAL lock_timeout = '100ms';
            EXECUTE format('LOCK TABLE ONLY events, ONLY %I IN ACCESS EXCLUSIVE MODE', name);
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF try = 200 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    EXECUTE format('ALTER TABLE events DETACH PARTITION %I', name);
    EXECUTE format('DROP TABLE %I', name);
END $$;
REVOKE ALL ON FUNCTION archive_partition(bigint, text, bytea, bytea, bytea) FROM PUBLIC;

-- Pinned, with the temporary schema last: nobody puts tables of his own in front of these.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION partition_for(bigint) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION archive_partition(bigint, text, bytea, bytea, bytea) SET search_path = %I, pg_temp',
        current_schema());
END $$;
