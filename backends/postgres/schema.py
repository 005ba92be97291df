"""The tables of a store in a database, and how they come to be: made, migrated, checked. Drawn in ARCHITECTURE.md.

Names are text that is ordered by its bytes, whatever the database's collation; keys and payloads are bytes.
A migration is one entry of `MIGRATIONS`, done in one transaction under an advisory lock; a store of a newer
format is left alone.
"""

from __future__ import annotations

from typing import Final

from perdure.backends.postgres import people

SCHEMA: Final = "perdure"
COMMENT: Final = "A perdure store. Read as you like: it is written by perdure alone."
LOCK: Final = 0x7065726475726521
"""The advisory lock under which the schema is made and migrated."""
LOADING: Final = "loading"
"""What stands for a store that is being loaded, where else stands the place that it was moved to, or ''."""
ELSEWHERE: Final = f"CASE WHEN loading THEN '{LOADING}' ELSE moved END"

NEW_EPOCH: Final = "UPDATE perdure.head SET epoch = epoch + 1"
"""What was judged in the epoch before is not written any more."""

_FIRST: Final = """
CREATE TABLE perdure.head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    store text NOT NULL,
    format int4 NOT NULL,
    position int8 NOT NULL DEFAULT 0,
    revision int8 NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT 'epoch',
    at_before timestamptz NOT NULL DEFAULT 'epoch',
    epoch int8 NOT NULL DEFAULT 0,
    loading boolean NOT NULL DEFAULT false
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE perdure.runs (
    position int8 PRIMARY KEY,
    events int4 NOT NULL,
    stream text COLLATE "C" NOT NULL,
    seq int8 NOT NULL,
    type text COLLATE "C" NOT NULL,
    version int8 NOT NULL,
    at timestamptz NOT NULL,
    tags text[],
    commit bytea NOT NULL,
    ordinal int8 NOT NULL,
    commit_end int8 NOT NULL,
    crcs bytea NOT NULL,
    ends bytea,
    payload bytea NOT NULL,
    extra bytea NOT NULL,
    moved int8,
    sealed_at timestamptz,
    UNIQUE (stream, seq)
);
ALTER TABLE perdure.runs ALTER payload SET STORAGE EXTERNAL;

CREATE TABLE perdure.tags (
    tag text COLLATE "C",
    position int8,
    PRIMARY KEY (tag, position)
);

CREATE TABLE perdure.names (
    name text COLLATE "C" PRIMARY KEY,
    first int8 NOT NULL DEFAULT 1
);

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
COMMENT ON TABLE perdure.runs IS 'The log as it is stored: in each row one event, or several of one commit, stream and type. Read the view events.';
COMMENT ON TABLE perdure.tags IS 'Which events have a tag.';
COMMENT ON TABLE perdure.names IS 'The streams, each with its first seq.';
COMMENT ON TABLE perdure.kv IS 'Entries. Without a value: deleted, and to be forgotten.';
COMMENT ON TABLE perdure.compacted IS 'Deletes of a bucket up to this revision have been forgotten.';
COMMENT ON TABLE perdure.snapshots IS 'States of projections.';
COMMENT ON TABLE perdure.commits IS 'Answers to commits with an idempotency key, for as long as they are kept.';
COMMENT ON TABLE perdure.writers IS 'Answers to the last commits without a key of each process, where its events do not tell them.'
"""

_CUTS: Final = """
ALTER TABLE perdure.head ADD COLUMN moved text NOT NULL DEFAULT '';

ALTER TABLE perdure.names
    ADD COLUMN cut int8 NOT NULL DEFAULT 0,
    ADD COLUMN archive text,
    ADD COLUMN swept boolean NOT NULL DEFAULT true;
CREATE INDEX names_unswept ON perdure.names (name) WHERE NOT swept;

CREATE TABLE perdure.cuts (
    category text COLLATE "C",
    type text COLLATE "C",
    position int8 NOT NULL,
    stream text COLLATE "C" NOT NULL,
    times int8 NOT NULL DEFAULT 1,
    PRIMARY KEY (category, type)
);

COMMENT ON TABLE perdure.names IS 'The streams, each with its first seq, and the position of the newest event that was cut.';
COMMENT ON TABLE perdure.cuts IS 'How far events of each category and type (empty: of any) have been cut, the stream of the newest one, and how often that was.'
"""


def _steps(sql: str) -> tuple[str, ...]:
    return tuple(step.strip() for step in sql.split(";\n"))


MIGRATIONS: Final = ((*_steps(_FIRST), *people.STEPS), (*_steps(_CUTS), *people.STEPS_WITH_CUTS))
"""What leads from each format to the next: the first one makes format 1."""
FORMAT: Final = len(MIGRATIONS)

TABLES: Final = ("runs", "tags", "names", "kv", "compacted", "snapshots", "commits", "writers", "cuts")
"""All but the head."""


def steps_from(format: int) -> list[str]:
    """The statements that lead from *format* (0: there is nothing) to ours."""
    return [step for migration in MIGRATIONS[format:] for step in migration]
