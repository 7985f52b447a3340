-- A deletion parks the conflicts about its asset that were open when it was made.

-- +goose Up

-- The newest conflict when it was made; 0: none. What came later is asked.
ALTER TABLE maintenance ADD COLUMN conflict BIGINT NOT NULL DEFAULT 0;
UPDATE maintenance SET conflict = COALESCE((SELECT MAX(c.id) FROM conflicts c WHERE c.opened <= maintenance.made), 0);
