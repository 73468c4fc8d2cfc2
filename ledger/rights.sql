-- All rights of a tenant's two roles, in this one place. Carried out by `migrate`, after its migrations.
-- A migration that makes a table or a function gives no rights itself: it adds a line here. Nothing is given on a
-- partition: rights on the parent suffice for what goes through it, and direct access stays refused.
-- A change here alone reaches an existing tenant with the next migration.

-- The ledger's own connections: they append and read, and nothing else.
GRANT USAGE ON SCHEMA {ledger} TO {ledger};
GRANT SELECT ON migrations, events_readable TO {ledger};
GRANT SELECT, INSERT ON events TO {ledger};
GRANT SELECT ON partitions, archived_commands, archived_streams TO {ledger};
GRANT SELECT, UPDATE (epoch, position, digest) ON ledger_head TO {ledger};
GRANT SELECT, INSERT, UPDATE (position) ON cursors TO {ledger};
GRANT SELECT, INSERT, UPDATE (version, code, digest, state) ON snapshots TO {ledger};
GRANT SELECT, INSERT, UPDATE (position) ON es_tracking TO {ledger};
GRANT SELECT, INSERT ON es_snapshots TO {ledger};
GRANT SELECT, INSERT, DELETE ON es_keys TO {ledger};
DO $$
BEGIN
    -- To erase a key is also to rewrite the table that held it. Before Postgres 17 only its owner can.
    IF current_setting('server_version_num')::int >= 170000 THEN
        GRANT MAINTAIN ON es_keys TO {ledger};
    END IF;
END $$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {ledger} FROM PUBLIC;
GRANT EXECUTE ON FUNCTION partition_for(bigint) TO {ledger};

-- Connections for views: they own what is in the schema of the views, and read the ledger.
GRANT USAGE ON SCHEMA {ledger} TO {views};
GRANT SELECT ON migrations, events_readable, events, ledger_head TO {views};
GRANT SELECT ON partitions, archived_commands, archived_streams TO {views};
GRANT SELECT, INSERT, UPDATE (position) ON cursors TO {views};
GRANT SELECT, INSERT, UPDATE (position) ON es_tracking TO {views};
GRANT USAGE, CREATE ON SCHEMA {views} TO {views};
DO $$
DECLARE
    made regclass;
    routine regprocedure;
BEGIN
    -- Made by the connecting user, before there were roles.
    FOR made IN SELECT oid FROM pg_class WHERE relnamespace = '{views}'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
                AND relowner <> '{views}'::regrole LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {views}', made);
    END LOOP;
    FOR routine IN SELECT oid FROM pg_proc WHERE pronamespace = '{views}'::regnamespace
                   AND proowner <> '{views}'::regrole LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO {views}', routine);
    END LOOP;
END $$;
