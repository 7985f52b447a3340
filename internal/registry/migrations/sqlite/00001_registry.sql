-- Times are milliseconds since 1970, UTC. Host IDs, digests, epochs and runs are lower-case hex. What a client
-- said stands only in reports.jws, and as JSON in assets.facts, assets.seen, conflicts.evidence, history.evidence.

-- +goose Up

PRAGMA application_id = 1935764837; -- registry.applicationID

CREATE TABLE tokens (
    id       TEXT   PRIMARY KEY,
    verifier BLOB   NOT NULL, -- SHA-256 of the secret; the secret itself is kept nowhere
    note     TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    expires  BIGINT,
    revoked  BIGINT,
    uses     BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE administrators (
    name          TEXT   PRIMARY KEY,
    password_hash TEXT   NOT NULL,
    created       BIGINT NOT NULL
);

-- An asset groups host IDs. Merging moves hosts; the asset that is left without any stays for undo and history.
CREATE TABLE assets (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created     BIGINT  NOT NULL,
    merged_into BIGINT  REFERENCES assets (id),
    keeper      BIGINT, -- the branch that keeps the asset: its tip gives the facts
    waiting     BIGINT, -- the branch that will keep it once the keeper has been silent long enough
    facts       TEXT    NOT NULL, -- hardware.Facts
    seen        TEXT    NOT NULL, -- Seen
    seen_host   TEXT    NOT NULL  -- the host ID last seen; '' before the first report
);

-- The board facts that an asset knows, normalised, to find others on the same board by.
CREATE TABLE board_facts (
    asset_id BIGINT NOT NULL REFERENCES assets (id),
    fact     TEXT   NOT NULL,
    value    TEXT   NOT NULL,
    PRIMARY KEY (asset_id, fact)
);
CREATE INDEX board_facts_value ON board_facts (fact, value, asset_id);

-- key is bound at enrolment. A host ID that only a replacement named has none yet, but the key of that proof.
CREATE TABLE hosts (
    host_id      TEXT    PRIMARY KEY,
    asset_id     BIGINT  NOT NULL REFERENCES assets (id),
    key          BLOB,
    proof_key    BLOB,
    token_id     TEXT    REFERENCES tokens (id),
    enrolled     BIGINT,
    replaced_by  TEXT,
    copy_of      TEXT,
    last_checkin BIGINT
);
CREATE INDEX hosts_asset ON hosts (asset_id);

-- proven: the key is the one that the host ID is bound to.
CREATE TABLE epochs (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    host_id  TEXT    NOT NULL REFERENCES hosts (host_id),
    key      BLOB    NOT NULL,
    epoch    TEXT    NOT NULL,
    began_by TEXT    NOT NULL,
    proven   BOOLEAN NOT NULL,
    began    BIGINT  NOT NULL,
    UNIQUE (host_id, key, epoch)
);

-- forked_from: the report that another branch continues too. missing: the predecessor that has not come yet.
CREATE TABLE branches (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch_id      BIGINT  NOT NULL REFERENCES epochs (id),
    tip           TEXT    NOT NULL,
    forked_from   TEXT,
    missing       TEXT,
    last_received BIGINT  NOT NULL
);
CREATE INDEX branches_epoch ON branches (epoch_id);
CREATE INDEX branches_missing ON branches (epoch_id, missing);

-- What was accepted. jws and reply are emptied, and later the rows deleted, when they have become old; never those
-- of a branch's tip.
CREATE TABLE reports (
    digest    TEXT   PRIMARY KEY,
    epoch_id  BIGINT NOT NULL REFERENCES epochs (id),
    branch_id BIGINT NOT NULL REFERENCES branches (id),
    previous  TEXT   NOT NULL, -- '' for the first of an epoch
    run       TEXT   NOT NULL,
    age_ms    BIGINT NOT NULL,
    received  BIGINT NOT NULL,
    board     TEXT   NOT NULL, -- compared with the asset's facts of that moment
    jws       TEXT   NOT NULL,
    reply     TEXT   NOT NULL
);
CREATE INDEX reports_previous ON reports (epoch_id, previous);
CREATE INDEX reports_received ON reports (epoch_id, received);
CREATE INDEX reports_age ON reports (received);
CREATE INDEX reports_text ON reports (received) WHERE reply <> '';
CREATE INDEX reports_branch ON reports (branch_id);

-- A run's interval: began is origin (receipt minus age) cut at the latest report of another run or branch of the
-- epoch; last is the receipt of its latest report.
CREATE TABLE intervals (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch_id  BIGINT  NOT NULL REFERENCES epochs (id),
    branch_id BIGINT  NOT NULL REFERENCES branches (id),
    run       TEXT    NOT NULL,
    origin    BIGINT  NOT NULL,
    began     BIGINT  NOT NULL,
    last      BIGINT  NOT NULL,
    reports   BIGINT  NOT NULL
);
CREATE INDEX intervals_branch ON intervals (branch_id, run);
CREATE INDEX intervals_epoch ON intervals (epoch_id, last);
CREATE INDEX intervals_last ON intervals (last);

-- Statements about replaced host IDs, by SHA-256 of the statement: each is judged once.
CREATE TABLE replacements (
    digest   TEXT   PRIMARY KEY,
    received BIGINT NOT NULL,
    old_id   TEXT   NOT NULL,
    accepted BOOLEAN NOT NULL
);

CREATE TABLE observations (
    epoch_id BIGINT NOT NULL REFERENCES epochs (id),
    kind     TEXT   NOT NULL,
    mine     TEXT   NOT NULL,
    other    TEXT   NOT NULL,
    PRIMARY KEY (epoch_id, kind, mine, other)
);

-- subject tells two conflicts of a kind apart; at most one of each is open.
CREATE TABLE conflicts (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    asset_id BIGINT  NOT NULL REFERENCES assets (id),
    other_asset BIGINT REFERENCES assets (id), -- same-board: the asset that may be the same PC
    host_id  TEXT    NOT NULL REFERENCES hosts (host_id),
    opened   BIGINT  NOT NULL,
    closed   BIGINT,
    evidence TEXT    NOT NULL
);
CREATE UNIQUE INDEX conflicts_open ON conflicts (kind, subject) WHERE closed IS NULL;
CREATE INDEX conflicts_asset ON conflicts (asset_id);
CREATE INDEX conflicts_other ON conflicts (other_asset) WHERE closed IS NULL;
CREATE INDEX conflicts_host ON conflicts (host_id, kind) WHERE closed IS NULL;

-- The epochs that a conflict is about: their reports are answered as provisional while it is open.
CREATE TABLE conflict_epochs (
    conflict_id BIGINT NOT NULL REFERENCES conflicts (id),
    epoch_id    BIGINT NOT NULL REFERENCES epochs (id),
    PRIMARY KEY (conflict_id, epoch_id)
);
CREATE INDEX conflict_epochs_epoch ON conflict_epochs (epoch_id);

-- host_id is NULL where the event is about no host: tokens.
CREATE TABLE history (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       BIGINT  NOT NULL,
    host_id  TEXT,
    kind     TEXT    NOT NULL,
    evidence TEXT    NOT NULL
);
CREATE INDEX history_host ON history (host_id, at);
