-- Hosts that say nothing new, and how busy the manager is. Times are milliseconds since 1970, UTC.

-- +goose Up

-- The description in the line's latest full report, which its deltas stand on, and that report's digest.
ALTER TABLE branches ADD COLUMN base TEXT NOT NULL DEFAULT '';
ALTER TABLE branches ADD COLUMN words TEXT NOT NULL DEFAULT '';

-- Receipt of the interval's first report; 0: it began before this was noted.
ALTER TABLE intervals ADD COLUMN first_at BIGINT NOT NULL DEFAULT 0;

-- The relays on the way of the host's latest report, from the manager's side on: host IDs, each after a backslash.
ALTER TABLE hosts ADD COLUMN route TEXT NOT NULL DEFAULT '';

-- A host is at rest while each of its reports only says that all is as before (registry.rest). What those change stands
-- here alone, and goes into the other tables when the host is woken (registry.wake).
CREATE TABLE resting (
    host_id    TEXT   PRIMARY KEY REFERENCES hosts (host_id),
    key        BLOB   NOT NULL,
    epoch      TEXT   NOT NULL,
    epoch_id   BIGINT NOT NULL,
    branch_id  BIGINT NOT NULL,
    interval_id BIGINT NOT NULL,
    run        TEXT   NOT NULL,
    said       BLOB   NOT NULL, -- checkin.Report.Describes
    route      TEXT   NOT NULL,
    since      BIGINT NOT NULL, -- when it came to rest
    generation BIGINT NOT NULL, -- pace.generation of that time
    tip        TEXT   NOT NULL,
    previous   TEXT   NOT NULL, -- the tip's
    base       TEXT   NOT NULL,
    origin     BIGINT NOT NULL, -- the tip's receipt minus its age
    age_ms     BIGINT NOT NULL, -- the tip's
    received   BIGINT NOT NULL, -- the tip's
    answered   BIGINT NOT NULL, -- when the tip was accepted, as its reply says
    interval_s BIGINT NOT NULL, -- that the reply told
    clock      TEXT   NOT NULL, -- the client's own, in the tip
    reports    BIGINT NOT NULL, -- since it came to rest
    hour       BIGINT NOT NULL, -- in which it was last heard
    in_hour    BIGINT NOT NULL, -- reports in it
    recent     BLOB   NOT NULL  -- the first 16 bytes of the digest of each report that is in no other table
) WITHOUT ROWID;
CREATE INDEX resting_branch ON resting (branch_id);

-- Digests of reports of which nothing else is kept, 16 bytes each.
CREATE TABLE trails (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    branch_id BIGINT NOT NULL REFERENCES branches (id),
    last      BIGINT NOT NULL, -- receipt of the latest
    digests   BLOB   NOT NULL
);
CREATE INDEX trails_branch ON trails (branch_id);
CREATE INDEX trails_last ON trails (last);

-- How many reports came from a host in an hour (since 1970), by its key and by others.
CREATE TABLE rates (
    host_id TEXT    NOT NULL,
    proven  BOOLEAN NOT NULL,
    hour    BIGINT  NOT NULL,
    reports BIGINT  NOT NULL,
    PRIMARY KEY (host_id, proven)
) WITHOUT ROWID;

-- One row. factor: by how much the interval told to clients is longer than the one that is set, and until when
-- a longer one may still be in force somewhere. generation: raised by whatever may change the answer to a report of any host at rest.
CREATE TABLE pace (
    factor     BIGINT NOT NULL,
    longest    BIGINT NOT NULL, -- the longest factor that may still be in force
    until      BIGINT NOT NULL,
    generation BIGINT NOT NULL
);
INSERT INTO pace (factor, longest, until, generation) VALUES (1, 1, 0, 0);

CREATE VIEW hosts_now AS SELECT h.host_id, h.asset_id, h.home, h.key, h.proof_key, h.token_id, h.enrolled, h.replaced_by, h.copy_of, h.keeper, h.waiting,
    h.facts, h.seen, h.since, h.deleted, h.archived, h.retired, h.succeeded, h.route,
    COALESCE(r.received, h.heard) AS heard, COALESCE(r.received, h.last_checkin) AS last_checkin, r.clock AS clock
    FROM hosts h LEFT JOIN resting r ON r.host_id = h.host_id;

CREATE VIEW branches_now AS SELECT b.id, b.epoch_id, COALESCE(r.tip, b.tip) AS tip, b.forked_from, b.missing, COALESCE(r.received, b.last_received) AS last_received
    FROM branches b LEFT JOIN resting r ON r.branch_id = b.id;
