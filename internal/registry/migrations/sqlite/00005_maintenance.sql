-- Deletion, archive, retirement and succession. Times are milliseconds since 1970, UTC.

-- +goose Up

-- What was done to an asset, and until when it was in force. Nothing is erased by any of them: each marks hosts, and
-- ends by taking its marks away.
CREATE TABLE maintenance (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT   NOT NULL, -- delete, archive, retire, replace
    host_id      TEXT   NOT NULL REFERENCES hosts (host_id), -- that it was done to by name
    other        TEXT   NOT NULL, -- replace: a host ID of the successor; else ''
    host_ids     TEXT   NOT NULL, -- all that it was done to, as JSON
    name         TEXT   NOT NULL, -- the asset's at that time
    last_checkin BIGINT,
    cause        TEXT   NOT NULL, -- command, api, schedule
    who          TEXT   NOT NULL,
    made         BIGINT NOT NULL,
    grouping     BIGINT REFERENCES groupings (id), -- replace: what it joined
    heard        BIGINT, -- retire, replace: when a marked host was first heard afterwards
    ended        BIGINT,
    ended_cause  TEXT   NOT NULL DEFAULT '', -- as cause, or check-in
    ended_by     TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX maintenance_kind ON maintenance (kind, id);
CREATE INDEX maintenance_in_force ON maintenance (id) WHERE ended IS NULL;

-- The one of each kind that is in force for a host.
ALTER TABLE hosts ADD COLUMN deleted BIGINT REFERENCES maintenance (id);
ALTER TABLE hosts ADD COLUMN archived BIGINT REFERENCES maintenance (id);
ALTER TABLE hosts ADD COLUMN retired BIGINT REFERENCES maintenance (id);
ALTER TABLE hosts ADD COLUMN succeeded BIGINT REFERENCES maintenance (id);
CREATE INDEX hosts_deleted ON hosts (deleted) WHERE deleted IS NOT NULL;
CREATE INDEX hosts_archived ON hosts (archived) WHERE archived IS NOT NULL;
CREATE INDEX hosts_retired ON hosts (retired) WHERE retired IS NOT NULL;
CREATE INDEX hosts_succeeded ON hosts (succeeded) WHERE succeeded IS NOT NULL;

-- The days (UTC, since 1970) on which a check-in was accepted: the silence of an asset is counted in them.
CREATE TABLE contact_days (
    day BIGINT PRIMARY KEY
);
INSERT INTO contact_days (day) SELECT DISTINCT received / 86400000 FROM reports;

-- One row. held: how many assets the last scheduled run did not archive because they were too many at once.
CREATE TABLE archiving (
    last BIGINT,
    held BIGINT NOT NULL
);
INSERT INTO archiving (last, held) VALUES (NULL, 0);
