-- admins: who may use the admin API and the console. handle is the user handle of their passkeys. certificate_subject is '' for those without a client
-- certificate. The mac covers the row, so that nobody gets a role by writing the database alone.
--
-- admin_links: the newest one-time link of each admin; hash is the SHA-256 of its token.
--
-- admin_passkeys: the passkeys of admins (WebAuthn credential records, in JSON), with a mac as admins have.
--
-- admin_sessions: sign-ins of the console; hash is the SHA-256 of the token in the cookie. signed_in_at is the last proof of identity.
--
-- admin_ceremonies: challenges of WebAuthn that were answered, so that none is answered twice. Those that wait for their answer are sealed, and rest with
-- the browser: strangers begin them.
--
-- admin_requests: requests of the admin API with an Idempotency-Key. key_hash is a hash of the key. answer is sealed under the key itself; '' while the
-- request runs.
--
-- users.revision is incremented by every change that an administrator makes.

-- +goose Up

ALTER TABLE users ADD COLUMN revision BIGINT NOT NULL DEFAULT 1;

CREATE TABLE admins (
    name                TEXT PRIMARY KEY,
    role                TEXT NOT NULL,
    certificate_subject TEXT NOT NULL,
    handle              TEXT NOT NULL UNIQUE,
    created_at          BIGINT NOT NULL,
    disabled_at         BIGINT,
    mac                 TEXT NOT NULL
);

CREATE UNIQUE INDEX admins_by_subject ON admins (certificate_subject) WHERE certificate_subject <> '';

CREATE TABLE admin_links (
    name       TEXT PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,
    expires_at BIGINT NOT NULL,
    mac        TEXT NOT NULL
);

CREATE TABLE admin_passkeys (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    handle     TEXT NOT NULL,
    label      TEXT NOT NULL,
    credential TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at    BIGINT,
    mac        TEXT NOT NULL
);

CREATE INDEX admin_passkeys_by_name ON admin_passkeys (name);

CREATE TABLE admin_sessions (
    hash         TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    handle       TEXT NOT NULL,
    way          TEXT NOT NULL,
    address      TEXT NOT NULL,
    signed_in_at BIGINT NOT NULL,
    seen_at      BIGINT NOT NULL,
    mac          TEXT NOT NULL
);

CREATE INDEX admin_sessions_by_name ON admin_sessions (name);

CREATE TABLE admin_ceremonies (
    hash       TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE TABLE admin_requests (
    actor        TEXT NOT NULL,
    key_hash     TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status       BIGINT NOT NULL,
    answer       TEXT NOT NULL,
    begun_at     BIGINT NOT NULL,
    PRIMARY KEY (actor, key_hash)
);

CREATE INDEX audit_by_type ON audit (type, seq);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_target ON audit (target, seq);
