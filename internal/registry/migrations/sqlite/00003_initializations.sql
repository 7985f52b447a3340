-- What dcmamtin did to each PC, as its journals say. Times are milliseconds since 1970, UTC.

-- +goose Up

-- How far each journal has been taken. head tells a file from another one under its name; size and modified are the
-- file's when it was last read to its end, so that what did not change is not opened. run is the run that the next
-- results belong to (registry.Run).
CREATE TABLE journals (
    name     TEXT   PRIMARY KEY,
    head     TEXT   NOT NULL,
    position BIGINT NOT NULL,
    size     BIGINT NOT NULL,
    modified BIGINT NOT NULL, -- nanoseconds since 1970
    run      TEXT   NOT NULL
);

-- subject is what the result is about: name, else UUID, else address; a result comes once, however often it is read.
-- counted is finished, but never later than it came. host_id is the asset's at that time; NULL: no asset could be
-- told. newest: no later result hangs on the same host ID.
CREATE TABLE initializations (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    subject  TEXT    NOT NULL,
    finished BIGINT  NOT NULL,
    counted  BIGINT  NOT NULL,
    journal  TEXT    NOT NULL,
    name     TEXT    NOT NULL, -- lower case; '' for none
    label    TEXT    NOT NULL, -- the name up to its first dot
    uuid     TEXT    NOT NULL, -- as displayed; '' for none and for placeholders
    address  TEXT    NOT NULL,
    ok       BOOLEAN NOT NULL,
    result   TEXT    NOT NULL, -- Initialization
    host_id  TEXT    REFERENCES hosts (host_id),
    matched  TEXT    NOT NULL, -- uuid, name, several, none
    newest   BOOLEAN NOT NULL DEFAULT FALSE,
    UNIQUE (subject, finished)
);
CREATE INDEX initializations_subject ON initializations (subject, counted, id);
CREATE INDEX initializations_host ON initializations (host_id, counted, id);
CREATE INDEX initializations_newest ON initializations (host_id) WHERE newest;
CREATE INDEX initializations_open ON initializations (counted) WHERE host_id IS NULL;
CREATE INDEX initializations_label ON initializations (label, host_id);
CREATE INDEX initializations_uuid ON initializations (uuid, subject);
CREATE INDEX initializations_address ON initializations (address, counted);

-- UUIDs that several PCs were met with: they tell nothing apart.
CREATE TABLE shared_uuids (
    uuid TEXT PRIMARY KEY
);

-- What assets call themselves, lower case, to find them by. qualified: a name with its domain.
CREATE TABLE asset_names (
    asset_id  BIGINT  NOT NULL REFERENCES assets (id),
    name      TEXT    NOT NULL,
    label     TEXT    NOT NULL,
    qualified BOOLEAN NOT NULL,
    PRIMARY KEY (asset_id, name)
);
CREATE INDEX asset_names_name ON asset_names (name);
CREATE INDEX asset_names_label ON asset_names (label);

INSERT INTO asset_names (asset_id, name, label, qualified)
SELECT id, name, CASE WHEN instr(name, '.') > 0 THEN substr(name, 1, instr(name, '.') - 1) ELSE name END, instr(name, '.') > 0
FROM (SELECT id, lower(json_extract(seen, '$.name')) AS name FROM assets WHERE seen_host <> '' AND merged_into IS NULL
      UNION
      SELECT id, lower(json_extract(seen, '$.fqdn')) FROM assets WHERE seen_host <> '' AND merged_into IS NULL)
WHERE name IS NOT NULL AND name <> '' AND name <> 'localhost' AND name NOT LIKE 'localhost.%'
  AND name NOT GLOB '*[0-9].[0-9]*.[0-9]*.[0-9]*' AND name NOT LIKE '%:%' AND name NOT LIKE '%.' AND name NOT LIKE '.%';

-- When seen was reported.
ALTER TABLE assets ADD COLUMN seen_at BIGINT;
UPDATE assets SET seen_at = (SELECT MAX(last_checkin) FROM hosts WHERE hosts.asset_id = assets.id) WHERE seen_host <> '';
