-- Rows of hosts at rest are wide: as part of the key's tree, SQLite kept their ends on pages of their own, and
-- read those from the file for each comparison. They stand in a tree of their own now.

-- +goose Up

DROP VIEW hosts_now;
DROP VIEW branches_now;

ALTER TABLE resting RENAME TO resting_before;
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
);
INSERT INTO resting SELECT * FROM resting_before;
DROP TABLE resting_before;
CREATE INDEX resting_branch ON resting (branch_id);

CREATE VIEW hosts_now AS SELECT h.host_id, h.asset_id, h.home, h.key, h.proof_key, h.token_id, h.enrolled, h.replaced_by, h.copy_of, h.keeper, h.waiting,
    h.facts, h.seen, h.since, h.deleted, h.archived, h.retired, h.succeeded, h.route,
    COALESCE(r.received, h.heard) AS heard, COALESCE(r.received, h.last_checkin) AS last_checkin, r.clock AS clock
    FROM hosts h LEFT JOIN resting r ON r.host_id = h.host_id;

CREATE VIEW branches_now AS SELECT b.id, b.epoch_id, COALESCE(r.tip, b.tip) AS tip, b.forked_from, b.missing, COALESCE(r.received, b.last_received) AS last_received
    FROM branches b LEFT JOIN resting r ON r.branch_id = b.id;
