-- Orders, resolutions and rules. Times are milliseconds since 1970, UTC.

-- +goose Up

-- What is known of a PC hangs on its host IDs; what assets says of it is made out of them (registry.regroup), so that
-- hosts can be moved between assets and back. home: the asset that was made with the host; it never changes.
-- heard: receipt of the report that last presented the host; since: from when it was heard without three intervals of silence.
ALTER TABLE hosts ADD COLUMN home BIGINT REFERENCES assets (id);
ALTER TABLE hosts ADD COLUMN keeper BIGINT;
ALTER TABLE hosts ADD COLUMN waiting BIGINT;
ALTER TABLE hosts ADD COLUMN facts TEXT NOT NULL DEFAULT '{}';
ALTER TABLE hosts ADD COLUMN seen TEXT NOT NULL DEFAULT '{}';
ALTER TABLE hosts ADD COLUMN heard BIGINT;
ALTER TABLE hosts ADD COLUMN since BIGINT;
UPDATE hosts SET home = asset_id;
UPDATE hosts SET heard = last_checkin, since = last_checkin, facts = (SELECT facts FROM assets a WHERE a.id = hosts.asset_id),
    keeper = (SELECT b.id FROM branches b JOIN epochs e ON e.id = b.epoch_id WHERE e.host_id = hosts.host_id AND e.proven ORDER BY b.last_received DESC, b.id LIMIT 1)
    WHERE key IS NOT NULL AND last_checkin IS NOT NULL;
UPDATE hosts SET keeper = (SELECT keeper FROM assets a WHERE a.id = hosts.asset_id)
    WHERE EXISTS (SELECT 1 FROM assets a JOIN branches b ON b.id = a.keeper JOIN epochs e ON e.id = b.epoch_id WHERE a.id = hosts.asset_id AND e.host_id = hosts.host_id);
UPDATE hosts SET waiting = (SELECT waiting FROM assets a WHERE a.id = hosts.asset_id)
    WHERE EXISTS (SELECT 1 FROM assets a JOIN branches b ON b.id = a.waiting JOIN epochs e ON e.id = b.epoch_id WHERE a.id = hosts.asset_id AND e.host_id = hosts.host_id);
UPDATE hosts SET seen = (SELECT seen FROM assets a WHERE a.id = hosts.asset_id) WHERE EXISTS (SELECT 1 FROM assets a WHERE a.seen_host = hosts.host_id);

CREATE INDEX hosts_copy_of ON hosts (copy_of) WHERE copy_of IS NOT NULL;

-- keep_host: the host whose branch keeps the asset; '' before the first report.
ALTER TABLE assets ADD COLUMN keep_host TEXT NOT NULL DEFAULT '';
UPDATE assets SET keep_host = COALESCE((SELECT e.host_id FROM branches b JOIN epochs e ON e.id = b.epoch_id WHERE b.id = assets.keeper), '');

-- The hardware.Facts of the branch's latest full report.
ALTER TABLE branches ADD COLUMN facts TEXT NOT NULL DEFAULT '';

-- One asset was joined to another. An asset is joined to at most one at a time, so that the groups are trees; a host belongs to
-- the root of its home's. made_by: proof (the old host ID's key), rule, or operator.
CREATE TABLE groupings (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    from_asset BIGINT  NOT NULL REFERENCES assets (id),
    into_asset BIGINT  NOT NULL REFERENCES assets (id),
    made_by    TEXT    NOT NULL,
    made       BIGINT  NOT NULL,
    undone     BIGINT
);
CREATE UNIQUE INDEX groupings_from ON groupings (from_asset) WHERE undone IS NULL;
CREATE INDEX groupings_into ON groupings (into_asset) WHERE undone IS NULL;
INSERT INTO groupings (from_asset, into_asset, made_by, made) SELECT id, merged_into, 'proof', created FROM assets WHERE merged_into IS NOT NULL;

-- The lines that a conflict is about: their reports are answered as provisional while it is open. left_at: the line has
-- done what it was ordered to do, or is no longer concerned.
CREATE TABLE conflict_lines (
    conflict_id BIGINT NOT NULL REFERENCES conflicts (id),
    branch_id   BIGINT NOT NULL REFERENCES branches (id) ON DELETE CASCADE,
    left_at     BIGINT,
    PRIMARY KEY (conflict_id, branch_id)
);
CREATE INDEX conflict_lines_branch ON conflict_lines (branch_id) WHERE left_at IS NULL;
INSERT INTO conflict_lines (conflict_id, branch_id)
    SELECT ce.conflict_id, b.id FROM conflict_epochs ce JOIN branches b ON b.epoch_id = ce.epoch_id;
DROP TABLE conflict_epochs;

-- other_host: the other host that a conflict is about; other_asset is always that host's.
-- resolution: the one in force. held: an operator undid what a rule decided, so no rule decides here any more.
ALTER TABLE conflicts ADD COLUMN other_host TEXT NOT NULL DEFAULT '';
ALTER TABLE conflicts ADD COLUMN resolution BIGINT;
ALTER TABLE conflicts ADD COLUMN held BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE conflicts ADD COLUMN proposal TEXT NOT NULL DEFAULT '{}';
UPDATE conflicts SET other_host = COALESCE((SELECT host_id FROM hosts h WHERE h.asset_id = conflicts.other_asset ORDER BY enrolled IS NULL, enrolled, host_id LIMIT 1), '')
    WHERE other_asset IS NOT NULL;
CREATE INDEX conflicts_other_host ON conflicts (other_host) WHERE closed IS NULL AND other_host <> '';

-- What was decided about a conflict, by whom; effects is what it did (registry.effects), to undo it by.
CREATE TABLE resolutions (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    conflict_id BIGINT  NOT NULL REFERENCES conflicts (id),
    verb        TEXT    NOT NULL,
    who         TEXT    NOT NULL, -- an operator, or "rule " and its name
    made        BIGINT  NOT NULL,
    effects     TEXT    NOT NULL,
    undone      BIGINT,
    undone_by   TEXT    NOT NULL DEFAULT ''
);
CREATE INDEX resolutions_conflict ON resolutions (conflict_id);

-- Keep both, remembered: two hosts, or a value, that are not to be asked about again by evidence that was there then.
CREATE TABLE kept_apart (
    resolution BIGINT NOT NULL REFERENCES resolutions (id),
    kind       TEXT   NOT NULL,
    subject    TEXT   NOT NULL,
    evidence   TEXT   NOT NULL, -- list of what agreed
    PRIMARY KEY (kind, subject, resolution)
);

-- What a line is to do until it has done it: who it is (host, epoch, branch), why, and how often it was told.
CREATE TABLE demands (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL, -- checkin.OrderKind
    host_id    TEXT    NOT NULL REFERENCES hosts (host_id),
    branch_id  BIGINT  NOT NULL,
    other      TEXT    NOT NULL, -- host ID, '' for none
    conflict   BIGINT  REFERENCES conflicts (id),
    resolution BIGINT  REFERENCES resolutions (id),
    joins      BOOLEAN NOT NULL, -- the host ID it ends under is to be grouped with host_id
    made       BIGINT  NOT NULL,
    issued     BIGINT  NOT NULL, -- orders made out of it
    given      BIGINT  NOT NULL, -- replies that carried one of them
    ended      BIGINT,
    outcome    TEXT    NOT NULL, -- '' while open; done, withdrawn, gone (its line is), failed (told too often)
    done_by    TEXT    NOT NULL, -- the host ID it was acknowledged under
    done_line  BIGINT            -- and the branch
);
CREATE INDEX demands_branch ON demands (branch_id) WHERE ended IS NULL;
CREATE INDEX demands_host ON demands (host_id, kind);
CREATE INDEX demands_done_by ON demands (done_by) WHERE done_by <> '';
CREATE INDEX demands_conflict ON demands (conflict);

-- A demand bound to one run of its line. void: that run ended, or the demand did, before it was acknowledged.
CREATE TABLE orders (
    id           TEXT   PRIMARY KEY,
    demand       BIGINT NOT NULL REFERENCES demands (id),
    epoch        TEXT   NOT NULL,
    run          TEXT   NOT NULL,
    enrol        TEXT   NOT NULL, -- sealed to the host
    issued       BIGINT NOT NULL,
    acknowledged BIGINT,
    void         BIGINT
);
CREATE INDEX orders_demand ON orders (demand);

-- A token that goes with an order enrols one host, by a report that acknowledges that order.
ALTER TABLE tokens ADD COLUMN order_id TEXT NOT NULL DEFAULT '';

-- Whose reports go into the history only: a line (branch_id), or all of one key for a host ID.
CREATE TABLE blocks (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    resolution BIGINT  NOT NULL REFERENCES resolutions (id),
    host_id    TEXT    NOT NULL REFERENCES hosts (host_id),
    key        BLOB,
    branch_id  BIGINT,
    lifted     BIGINT
);
CREATE INDEX blocks_host ON blocks (host_id) WHERE lifted IS NULL;

CREATE TABLE rules (
    name    TEXT   PRIMARY KEY,
    mode    TEXT   NOT NULL, -- off, observe, enforce
    changed BIGINT NOT NULL,
    who     TEXT   NOT NULL
);

-- The manager's own placeholders, besides those that are built in. There is one row of placeholder_list.
CREATE TABLE placeholders (
    kind    TEXT   NOT NULL, -- uuid, serial, mac
    pattern TEXT   NOT NULL,
    added   BIGINT NOT NULL,
    who     TEXT   NOT NULL,
    PRIMARY KEY (kind, pattern)
);
CREATE TABLE placeholder_list (
    digest TEXT NOT NULL -- hardware.Placeholders.Digest
);
INSERT INTO placeholder_list (digest) VALUES ('');
