-- Runs that initialize the memory of many PCs, started at the manager. Times are milliseconds since 1970, UTC.

-- +goose Up

-- version grows with every change, so that whoever watches a run learns of it.
CREATE TABLE runs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    made         BIGINT  NOT NULL,
    made_by      TEXT    NOT NULL,
    same_key     TEXT,             -- the request's idempotency key, with who sent it
    request      TEXT    NOT NULL, -- SHA-256 of what was asked for, hex
    source       TEXT    NOT NULL,
    dry_run      BOOLEAN NOT NULL,
    parallel     BIGINT  NOT NULL, -- 0: as many as whoever does it takes
    retry_failed BOOLEAN NOT NULL,
    version      BIGINT  NOT NULL,
    cancelled    BIGINT,
    cancelled_by TEXT    NOT NULL DEFAULT '',
    ended        BIGINT
);
CREATE UNIQUE INDEX runs_same_key ON runs (same_key) WHERE same_key IS NOT NULL;
CREATE INDEX runs_open ON runs (id) WHERE ended IS NULL;

-- What of a run goes one way: through one relay, or ('') from the manager itself. Whoever works on it holds it until due, and
-- under a generation of its own: what an earlier holder still says counts nothing.
CREATE TABLE run_parts (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id     BIGINT  NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    relay      TEXT    NOT NULL,
    route      TEXT    NOT NULL, -- for people: \relay1\relay2
    generation BIGINT  NOT NULL,
    due        BIGINT  NOT NULL,
    holder     TEXT    NOT NULL,
    handed     BIGINT  NOT NULL, -- how often work was posted for the relay
    work       TEXT    NOT NULL, -- the ID of what was posted last and has not ended; '' for none
    sequence   BIGINT  NOT NULL, -- of the progress of that work that was taken last
    waiting    BIGINT,           -- since when it waits for its relay to begin
    begun      BIGINT,
    ended      BIGINT,
    UNIQUE (run_id, relay)
);
CREATE INDEX run_parts_open ON run_parts (due) WHERE ended IS NULL;

-- The PCs of a run. outcome: '' while it is open, else 'initialized', 'already', or a reason why not.
CREATE TABLE run_targets (
    run_id   BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    number   BIGINT NOT NULL, -- from 1
    part_id  BIGINT NOT NULL REFERENCES run_parts (id),
    subject  TEXT   NOT NULL, -- which PC it is
    host_id  TEXT   NOT NULL, -- '' where no asset could be told
    host     TEXT   NOT NULL,
    address  TEXT   NOT NULL,
    handed   BIGINT NOT NULL, -- with which work of its part; 0: none yet
    moves    BIGINT NOT NULL, -- from one part to another
    ended    BIGINT,
    outcome  TEXT   NOT NULL,
    result   TEXT   NOT NULL,
    PRIMARY KEY (run_id, number)
);
-- One run at a time for one PC.
CREATE UNIQUE INDEX run_targets_subject ON run_targets (subject) WHERE ended IS NULL;
CREATE INDEX run_targets_open ON run_targets (part_id, number) WHERE ended IS NULL;
CREATE INDEX run_targets_outcome ON run_targets (run_id, outcome, part_id);
