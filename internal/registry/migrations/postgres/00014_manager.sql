-- Whose database it is: a fingerprint of the key that signs replies. One row, or none before a manager has opened it.

-- +goose Up

CREATE TABLE manager (
    fingerprint TEXT PRIMARY KEY
);
