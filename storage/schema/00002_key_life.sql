-- The whole life of a signing key, and a MAC over the set of all of them: a row put back whole from an older copy of the table is found
-- out by the version of the set.

-- +goose Up

ALTER TABLE signing_keys ADD COLUMN safe_from BIGINT NOT NULL DEFAULT 0;
ALTER TABLE signing_keys ADD COLUMN retired_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN exposed_until BIGINT;

CREATE TABLE key_set (
    id      BIGINT PRIMARY KEY,
    version BIGINT NOT NULL,
    mac     TEXT NOT NULL
);

INSERT INTO key_set (id, version, mac) VALUES (1, 0, '');
