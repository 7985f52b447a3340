-- When the password was last set; NULL: when the administrator was made. Milliseconds since 1970, UTC.

-- +goose Up

ALTER TABLE administrators ADD COLUMN changed BIGINT;
