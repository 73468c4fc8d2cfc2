-- keys: each logged table with the columns of its primary key, in their order.
SELECT relname, array_agg(attname::text ORDER BY array_position(indkey::int2[], attnum))
FROM pg_class JOIN pg_index ON indrelid = pg_class.oid AND indisprimary
JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = ANY (indkey::int2[])
WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind = 'r' AND relpersistence = 'p'
GROUP BY relname ORDER BY relname

-- columns: of one table.
SELECT attname::text FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = to_regnamespace(%(schema)s) AND relname = %(name)s AND attnum > 0 AND NOT attisdropped
ORDER BY attnum

-- objects: what is to be moved: tables, views and routines, and whether one of these remembers a search path.
SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, quote_ident(relname), false
FROM pg_class AS c
WHERE relnamespace = to_regnamespace(%(here)s) AND relkind IN ('r', 'p', 'v', 'm')
  AND NOT (relpersistence = 'u' AND EXISTS (
      SELECT FROM pg_class AS t WHERE t.relnamespace = to_regnamespace(%(there)s) AND t.relname = c.relname))
UNION ALL
SELECT 'ROUTINE', format('%%I(%%s)', proname, pg_get_function_identity_arguments(oid)),
       coalesce(array_to_string(proconfig, ' ') ~ '^search_path=| search_path=', false)
FROM pg_proc WHERE pronamespace = to_regnamespace(%(here)s)

-- sizes: of those of these tables that are there, in bytes.
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relnamespace = to_regnamespace(%(schema)s) AND relname = ANY (%(names)s) ORDER BY relname
