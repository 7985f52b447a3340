-- Relays: their certificates, how they are reached, and what they are to do. Times are milliseconds since 1970, UTC.

-- +goose Up

-- A token that makes a relay, and what its certificate may be for: JSON list of DNS names and IP addresses.
ALTER TABLE tokens ADD COLUMN relay BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE tokens ADD COLUMN relay_names TEXT NOT NULL DEFAULT '[]';

-- The hosts that are relays, since they first showed a relay's token.
CREATE TABLE relays (
    host_id  TEXT   PRIMARY KEY REFERENCES hosts (host_id),
    token_id TEXT   NOT NULL, -- that admitted it last
    names    TEXT   NOT NULL, -- JSON list: what its certificate may be for
    admitted BIGINT NOT NULL,
    expires  BIGINT,          -- of the certificate issued last
    via      TEXT   NOT NULL, -- JSON list of the relays between it and the manager, its own higher system first
    heard    BIGINT,          -- when it was last in contact, other than by a check-in
    state    TEXT   NOT NULL  -- JSON: what it last reported of itself (checkin.RelayState)
);

-- What relays are to do, and what they said of it.
CREATE TABLE work (
    id       TEXT   PRIMARY KEY,
    relay    TEXT   NOT NULL REFERENCES hosts (host_id),
    kind     TEXT   NOT NULL,
    made     BIGINT NOT NULL,
    jws      TEXT   NOT NULL,
    sequence BIGINT NOT NULL, -- of the progress taken last
    ended    BIGINT           -- when its last progress came, or it was called off
);
CREATE INDEX work_open ON work (made, id) WHERE ended IS NULL;
CREATE INDEX work_ended ON work (ended) WHERE ended IS NOT NULL;

CREATE TABLE progress (
    work_id  TEXT    NOT NULL REFERENCES work (id),
    sequence BIGINT  NOT NULL,
    received BIGINT  NOT NULL,
    done     BOOLEAN NOT NULL,
    body     TEXT    NOT NULL,
    PRIMARY KEY (work_id, sequence)
);
