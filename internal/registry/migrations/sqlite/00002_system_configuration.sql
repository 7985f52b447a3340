-- What was imported from system configuration information files: one row per host.

-- +goose Up

CREATE TABLE system_configuration (
    id       INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of the first import, which export keeps
    host     TEXT    NOT NULL UNIQUE, -- sysconfig.Entry.Key
    entry    TEXT    NOT NULL, -- sysconfig.Entry as JSON, as the file states it
    imported BIGINT  NOT NULL  -- when it last changed
);
