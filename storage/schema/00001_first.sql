-- One text for SQLite and PostgreSQL: TEXT, BOOLEAN and BIGINT only. Times are unix milliseconds; lists and objects are JSON;
-- bytes are base64url without padding. Nothing that a refresh changes is indexed, so that PostgreSQL updates grants in place (HOT).

-- +goose Up

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE users (
    id            BIGINT PRIMARY KEY,
    sub           TEXT NOT NULL UNIQUE,
    username      TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    roles         TEXT NOT NULL,
    epoch         BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    disabled_at   BIGINT
);

CREATE TABLE clients (
    id                   TEXT PRIMARY KEY,
    public               BOOLEAN NOT NULL,
    secret_hash          TEXT NOT NULL,
    previous_secret_hash TEXT NOT NULL,
    previous_expires_at  BIGINT,
    grants               TEXT NOT NULL,
    scope                TEXT NOT NULL,
    audiences            TEXT NOT NULL,
    resource             TEXT NOT NULL,
    access_ttl           BIGINT NOT NULL,
    epoch                BIGINT NOT NULL,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    disabled_at          BIGINT
);

CREATE TABLE grants (
    id              BIGINT PRIMARY KEY,
    user_id         BIGINT NOT NULL,
    user_epoch      BIGINT NOT NULL,
    client_epoch    BIGINT NOT NULL,
    generation      BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    rotated_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    idle_expires_at BIGINT NOT NULL,
    revoked_at      BIGINT,
    revoked_reason  TEXT,
    client_id       TEXT NOT NULL,
    family_hash     TEXT NOT NULL,
    kid             TEXT NOT NULL,
    scope           TEXT NOT NULL,
    audience        TEXT NOT NULL
);

CREATE INDEX grants_by_user ON grants (user_id, id);

CREATE TABLE signing_keys (
    kid            TEXT PRIMARY KEY,
    state          TEXT NOT NULL CHECK (state IN ('next', 'current', 'previous', 'retired', 'revoked')),
    alg            TEXT NOT NULL,
    bits           BIGINT NOT NULL,
    public_key     TEXT NOT NULL,
    private_key    TEXT NOT NULL,
    published_at   BIGINT NOT NULL,
    activated_at   BIGINT,
    deactivated_at BIGINT,
    retires_at     BIGINT,
    revoked_at     BIGINT,
    signs_until    BIGINT NOT NULL,
    reason         TEXT NOT NULL,
    mac            TEXT NOT NULL
);

CREATE UNIQUE INDEX signing_keys_one_current ON signing_keys (state) WHERE state = 'current';
CREATE UNIQUE INDEX signing_keys_one_next ON signing_keys (state) WHERE state = 'next';

CREATE TABLE secret_keys (
    purpose      TEXT NOT NULL,
    number       BIGINT NOT NULL,
    sealed       TEXT NOT NULL,
    activated_at BIGINT NOT NULL,
    PRIMARY KEY (purpose, number)
);

CREATE TABLE audit (
    seq       BIGINT PRIMARY KEY,
    time      BIGINT NOT NULL,
    type      TEXT NOT NULL,
    actor     TEXT NOT NULL,
    target    TEXT NOT NULL,
    reason    TEXT NOT NULL,
    details   TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash      TEXT NOT NULL
);

CREATE TABLE audit_head (
    id   BIGINT PRIMARY KEY,
    seq  BIGINT NOT NULL,
    hash TEXT NOT NULL
);

INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '');

CREATE TABLE throttle (
    bucket   TEXT PRIMARY KEY,
    failures BIGINT NOT NULL,
    last_at  BIGINT NOT NULL
);

CREATE TABLE familiar_addresses (
    user_id BIGINT NOT NULL,
    address TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, address)
);

CREATE TABLE leases (
    name      TEXT PRIMARY KEY,
    holder    TEXT NOT NULL,
    lapses_at BIGINT NOT NULL
);
