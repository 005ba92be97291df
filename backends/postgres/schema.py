"""The tables of a store in a database, and how they come to be: made, migrated, checked. Drawn in ARCHITECTURE.md.

Names are text that is ordered by its bytes, whatever the database's collation; keys and payloads are bytes.
A migration is one entry of `MIGRATIONS`, done in one transaction under an advisory lock; a store of a newer
format is left alone.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = "perdure"
COMMENT: Final = "A perdure store. Read as you like: it is written by perdure alone."
LOCK: Final = 0x7065726475726521
"""The advisory lock under which the schema is made and migrated."""

_FIRST: Final = """
CREATE TABLE perdure.head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    store text NOT NULL,
    format int4 NOT NULL,
    position int8 NOT NULL DEFAULT 0,
    revision int8 NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT 'epoch',
    loading boolean NOT NULL DEFAULT false
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE perdure.events (
    position int8 PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    seq int8 NOT NULL,
    type text COLLATE "C" NOT NULL,
    version int8 NOT NULL,
    at timestamptz NOT NULL,
    tags text[],
    data jsonb,
    payload bytea NOT NULL,
    extra bytea NOT NULL,
    commit bytea NOT NULL,
    ordinal int8 NOT NULL,
    commit_end int8 NOT NULL,
    crc int8 NOT NULL,
    UNIQUE (stream, seq)
);

CREATE TABLE perdure.tags (
    tag text COLLATE "C",
    position int8,
    PRIMARY KEY (tag, position)
);

CREATE TABLE perdure.streams (
    name text COLLATE "C" PRIMARY KEY,
    first int8 NOT NULL DEFAULT 1,
    last int8 NOT NULL,
    position int8 NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE perdure.kv (
    bucket text COLLATE "C",
    key bytea,
    revision int8 NOT NULL,
    value bytea,
    watched boolean NOT NULL,
    deleted timestamptz,
    PRIMARY KEY (bucket, key)
) WITH (fillfactor = 80);
CREATE INDEX kv_changes ON perdure.kv (bucket, revision) WHERE watched;
CREATE INDEX kv_tombstones ON perdure.kv (deleted) WHERE deleted IS NOT NULL;

CREATE TABLE perdure.compacted (
    bucket text COLLATE "C" PRIMARY KEY,
    revision int8 NOT NULL
);

CREATE TABLE perdure.snapshots (
    name text COLLATE "C",
    position int8,
    fingerprint text NOT NULL,
    at timestamptz NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (name, position)
);

CREATE TABLE perdure.commits (
    id bytea PRIMARY KEY,
    at timestamptz NOT NULL,
    kept bytea NOT NULL
);
CREATE INDEX commits_at ON perdure.commits (at);

CREATE TABLE perdure.writers (
    owner bytea PRIMARY KEY,
    at timestamptz NOT NULL,
    drawn bytea NOT NULL
);

COMMENT ON TABLE perdure.head IS 'One row: the store as a whole. Who writes locks it.';
COMMENT ON TABLE perdure.events IS 'The log, in order of position. data: the payload as JSON, where there is such a form (perdure reads payload).';
COMMENT ON TABLE perdure.tags IS 'Which events have a tag.';
COMMENT ON TABLE perdure.streams IS 'Each stream: its first and last seq, and the position of its last event.';
COMMENT ON TABLE perdure.kv IS 'Entries. Without a value: deleted, and to be forgotten.';
COMMENT ON TABLE perdure.compacted IS 'Deletes of a bucket up to this revision have been forgotten.';
COMMENT ON TABLE perdure.snapshots IS 'States of projections.';
COMMENT ON TABLE perdure.commits IS 'Answers to commits with an idempotency key, for as long as they are kept.';
COMMENT ON TABLE perdure.writers IS 'Answers to the last commits without a key of each process, where its events do not tell them.'
"""

_CUTS: Final = """
ALTER TABLE perdure.streams ADD COLUMN cut int8 NOT NULL DEFAULT 0, ADD COLUMN archive text, ADD COLUMN swept boolean NOT NULL DEFAULT true;
CREATE INDEX streams_unswept ON perdure.streams (name) WHERE NOT swept;

CREATE TABLE perdure.cuts (
    category text COLLATE "C",
    type text COLLATE "C",
    position int8 NOT NULL,
    stream text COLLATE "C" NOT NULL,
    PRIMARY KEY (category, type)
);

COMMENT ON TABLE perdure.streams IS 'Each stream: its first and last seq, the position of its last event, and of the newest that was cut.';
COMMENT ON TABLE perdure.cuts IS 'How far events of each category and type (empty: of any) have been cut, and of which stream the newest was.'
"""

MIGRATIONS: Final = (_FIRST, _CUTS)
"""What leads from each format to the next: the first one makes format 1."""
FORMAT: Final = len(MIGRATIONS)

TABLES: Final = ("events", "tags", "streams", "kv", "compacted", "snapshots", "commits", "writers", "cuts")
"""All but the head."""


def steps_from(format: int) -> list[str]:
    """The statements that lead from *format* (0: there is nothing) to ours."""
    return [step.strip() for migration in MIGRATIONS[format:] for step in migration.split(";\n") if step.strip()]
