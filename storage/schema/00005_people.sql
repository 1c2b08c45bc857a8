-- What people see and decide: which servers run, when and why the logins of a user or client ended together, and two properties of a
-- client: whether its refresh tokens rotate, and which claims its access tokens have besides the usual ones.

-- +goose Up

ALTER TABLE clients ADD COLUMN refresh_rotation BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE clients ADD COLUMN claims TEXT NOT NULL DEFAULT '[]';

-- When a refresh token that does not rotate was last used, as far as it was written.
ALTER TABLE grants ADD COLUMN kept_at BIGINT;

CREATE TABLE replicas (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    version    TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);

CREATE TABLE endings (
    owner    TEXT NOT NULL,
    epoch    BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (owner, epoch)
);

CREATE INDEX endings_by_time ON endings (ended_at);
