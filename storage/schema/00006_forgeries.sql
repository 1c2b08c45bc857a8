-- Tokens that a signing key has signed and that no server has made, counted by hour. told: the record of an hour with more of them than the
-- audit trail lists one by one is written.

-- +goose Up

CREATE TABLE forgeries (
    kid  TEXT NOT NULL,
    hour BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    told BOOLEAN NOT NULL,
    PRIMARY KEY (kid, hour)
);
