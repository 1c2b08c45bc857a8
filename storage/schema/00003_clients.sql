-- What the access tokens of a client say to be in their header: some verifiers take only what was usual before RFC 9068. And a number that
-- moves on with every change of a client: who remembers one asks by it whether that is what it still is.

-- +goose Up

ALTER TABLE clients ADD COLUMN token_typ TEXT NOT NULL DEFAULT 'at+jwt';
ALTER TABLE clients ADD COLUMN revision BIGINT NOT NULL DEFAULT 1;
