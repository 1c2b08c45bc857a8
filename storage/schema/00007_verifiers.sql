-- verifiers: resource servers that fetch the JWKS under a name of their own. The handle is in the URL, and is no secret.
--
-- jwks_fetches: who has fetched which key set, by handle, address and User-Agent. handle is '' for fetches without a registered handle; their address is
-- a /24 or a /48. kids are the keys of the newest set that was sent, newest first, and got_at and got_count say since when, and how often, a set
-- with the first of them was sent. signer is the key that signed at the last fetch, back_at the first fetch since it did. times are the last fetches, newest
-- first, each in 13 digits.
--
-- sightings: when something was last seen: a resource server that introspected, an audience that got a token.
--
-- probe_runs: probes that are running, or were killed. Each has a client and a user of its own, which go with it.
--
-- probe_reports: the last reports of each resource server. next_kid is the key whose token the API accepted before it signs; '' if none was.

-- +goose Up

ALTER TABLE clients ADD COLUMN probe_origin TEXT NOT NULL DEFAULT '';

CREATE TABLE probe_runs (
    id         BIGINT PRIMARY KEY,
    client_id  TEXT NOT NULL,
    user_id    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE probe_reports (
    id        BIGINT PRIMARY KEY,
    client_id TEXT NOT NULL,
    at        BIGINT NOT NULL,
    next_kid  TEXT NOT NULL,
    resource  TEXT NOT NULL,
    report    TEXT NOT NULL
);

CREATE INDEX probe_reports_by_client ON probe_reports (client_id, at);

CREATE TABLE verifiers (
    name       TEXT PRIMARY KEY,
    handle     TEXT NOT NULL UNIQUE,
    resource   TEXT NOT NULL,
    note       TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE jwks_fetches (
    handle     TEXT NOT NULL,
    source     TEXT NOT NULL,
    agent      TEXT NOT NULL,
    via        BOOLEAN NOT NULL,
    version    BIGINT NOT NULL,
    kids       TEXT NOT NULL,
    newest     TEXT NOT NULL,
    got_at     BIGINT NOT NULL,
    got_count  BIGINT NOT NULL,
    signer     TEXT NOT NULL,
    back_at    BIGINT NOT NULL,
    first_at   BIGINT NOT NULL,
    last_at    BIGINT NOT NULL,
    times      TEXT NOT NULL,
    count      BIGINT NOT NULL,
    PRIMARY KEY (handle, source, agent)
);

CREATE INDEX jwks_fetches_by_time ON jwks_fetches (last_at);

CREATE TABLE sightings (
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);
