-- The AMT management user that relays and clients are told. Times are milliseconds since 1970, UTC.

-- +goose Up

-- scope: the host ID that they are for, and for every host that reports through it; '' for all others. version: named in
-- reports and replies; it only grows, over all scopes. sealed: AES-256-GCM by a key that is made of the manager's, which
-- stands in its data folder and in no database; NULL: cleared.
CREATE TABLE amt_settings (
    scope   TEXT   PRIMARY KEY,
    version BIGINT NOT NULL,
    sealed  BYTEA,
    changed BIGINT NOT NULL,
    who     TEXT   NOT NULL
);
