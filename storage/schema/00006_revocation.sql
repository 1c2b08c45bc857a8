-- forgeries: tokens that a signing key has signed and that no server has made, counted by hour. told: the record of an hour with more of them than the
-- audit trail lists one by one is written.
--
-- status_lists: Token Status Lists. A list belongs to one epoch of one client. A grant keeps its place in a list. A replica takes a range of places, whose
-- holder is random: after a failover that lost the range, nobody can use its places twice. A mark is the place of an ended grant, until the last
-- access token of the grant has expired.

-- +goose Up

CREATE TABLE forgeries (
    kid  TEXT NOT NULL,
    hour BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    told BOOLEAN NOT NULL,
    PRIMARY KEY (kid, hour)
);

ALTER TABLE grants ADD COLUMN status_list BIGINT;
ALTER TABLE grants ADD COLUMN status_index BIGINT;

CREATE TABLE status_lists (
    id           BIGINT PRIMARY KEY,
    client_id    TEXT NOT NULL,
    client_epoch BIGINT NOT NULL,
    block        BIGINT NOT NULL,
    seed         TEXT NOT NULL,
    taken        BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    UNIQUE (client_id, client_epoch, block)
);

CREATE TABLE status_ranges (
    list     BIGINT NOT NULL,
    first    BIGINT NOT NULL,
    holder   BIGINT NOT NULL,
    taken_at BIGINT NOT NULL,
    PRIMARY KEY (list, first)
);

CREATE TABLE status_marks (
    list        BIGINT NOT NULL,
    place_index BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    PRIMARY KEY (list, place_index)
);

CREATE INDEX status_marks_by_time ON status_marks (expires_at, list, place_index);
