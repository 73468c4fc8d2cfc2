-- What no grant can say: an insert is an append. And the means to make a tenant's roles; their rights: `ledger/rights.sql`.

-- The search path is fixed, or whoever inserts could show these functions tables of his own.
CREATE FUNCTION refuse_strays() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM events WHERE position > (SELECT position FROM ledger_head))
        OR EXISTS (SELECT FROM events WHERE position < 1) THEN
        RAISE EXCEPTION '% of %.% refused: a position that is not the next one. Events are appended by moving the head.',
            TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_leaps() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.origin <> OLD.origin OR NEW.epoch < OLD.epoch OR NEW.position < OLD.position
        OR NEW.position = OLD.position AND NEW.digest <> OLD.digest
        OR NEW.position > OLD.position AND (
            NEW.digest IS DISTINCT FROM (SELECT digest FROM events WHERE position = NEW.position)
            OR NEW.position - OLD.position
               <> (SELECT count(*) FROM events WHERE position > OLD.position AND position <= NEW.position)) THEN
        RAISE EXCEPTION '% of %.% from % to % refused: the head moves onward only, together with the events it passes.',
            TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, OLD.position, NEW.position USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION guard(kept regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER events_are_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON %s
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', kept);
    EXECUTE format('CREATE OR REPLACE TRIGGER events_follow_the_head AFTER INSERT ON %s
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_strays()', kept);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER events_are_never_changed', kept);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER events_follow_the_head', kept);
END $$;
COMMENT ON FUNCTION guard IS
    'Makes a table one of recorded events: no change, no position out of turn. Also for each partition, whose parent''s '
    'triggers do not see what is done to it directly.';
SELECT guard('events');

-- Deferred: whoever moves the head first and inserts then is right too, by the time he commits.
CREATE CONSTRAINT TRIGGER head_goes_with_events AFTER UPDATE ON ledger_head
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_leaps();
ALTER TABLE ledger_head ENABLE ALWAYS TRIGGER head_goes_with_events;

-- Roles belong to all databases of a server, so that no lock of this one keeps others from making the same role.
CREATE FUNCTION make_role(wanted text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
    IF current_setting('is_superuser') = 'off' THEN
        EXECUTE format('GRANT %I TO %I', wanted, session_user);
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;

-- Views live in a schema of their own now; they are made there and replayed.
DROP TABLE IF EXISTS projections, board_workflows, board_tasks, board_attempts, board_asks, due, presence;
