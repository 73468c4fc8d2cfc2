-- create: for each term that events have, and each block of positions, which events of the block have it.
CREATE TABLE event_terms (
    term    bigint  NOT NULL,  -- the first 8 bytes of the sha256 of what `ledger.filters.terms_of` names
    block   integer NOT NULL,
    skipped integer NOT NULL,  -- bytes of zeros before `bits`
    bits    bytea   NOT NULL,  -- the lowest bit of the first byte is that of the block's first position
    PRIMARY KEY (term, block)
) WITH (fillfactor = 80);
CREATE TABLE event_types (
    type text PRIMARY KEY
);
CREATE TABLE event_spans (
    span     bigint      PRIMARY KEY,
    earliest timestamptz NOT NULL,
    latest   timestamptz NOT NULL
) WITH (fillfactor = 80)

-- drop: all of it.
DROP TABLE IF EXISTS event_terms, event_types, event_spans

-- load_terms: what a block has of these terms.
SELECT term, skipped, bits FROM event_terms WHERE term = ANY(%(terms)s::bigint[]) AND block = %(block)s

-- store_terms: new rows and changed ones.
INSERT INTO event_terms
SELECT * FROM unnest(%(terms)s::bigint[], %(blocks)s::int[], %(skipped)s::int[], %(bits)s::bytea[])
ON CONFLICT (term, block) DO UPDATE SET skipped = excluded.skipped, bits = excluded.bits

-- store_types: those that are new.
INSERT INTO event_types SELECT * FROM unnest(%(types)s::text[]) ON CONFLICT DO NOTHING

-- store_spans: the times of these spans go at least so far.
INSERT INTO event_spans SELECT * FROM unnest(%(spans)s::bigint[], %(earliest)s::timestamptz[], %(latest)s::timestamptz[])
ON CONFLICT (span) DO UPDATE SET earliest = least(event_spans.earliest, excluded.earliest),
                                 latest = greatest(event_spans.latest, excluded.latest)

-- hold: nobody replaces the tables until this transaction ends.
LOCK TABLE event_terms, event_types, event_spans IN ACCESS SHARE MODE

-- held: up to which position they hold everything.
SELECT position FROM projections WHERE name = %(name)s AND version = %(version)s

-- types: all that there are.
SELECT type FROM event_types

-- terms: what some blocks have of these terms.
SELECT block, term, skipped, bits FROM event_terms
WHERE term = ANY(%(terms)s::bigint[]) AND block BETWEEN %(first)s AND %(last)s

-- spans: those in which something was recorded between two times.
SELECT span FROM event_spans
WHERE span BETWEEN %(first)s AND %(last)s AND latest >= %(since)s AND earliest < %(to)s
