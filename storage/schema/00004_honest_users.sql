-- A late retry is kept on the row of its grant. A bucket of failed logins knows its account and the guesses that are under way, so that a person
-- can empty all buckets of an account. Counters from before do not know theirs: they begin anew. The indexes bound the clean-up and the count of
-- the open grants of a user; nothing that a refresh changes is indexed.

-- +goose Up

ALTER TABLE grants ADD COLUMN late_retry_at BIGINT;
CREATE INDEX grants_open ON grants (user_id, client_id, user_epoch, client_epoch) WHERE revoked_at IS NULL;

ALTER TABLE throttle ADD COLUMN account TEXT NOT NULL DEFAULT '';
ALTER TABLE throttle ADD COLUMN pending BIGINT NOT NULL DEFAULT 0;
ALTER TABLE throttle ADD COLUMN pending_at BIGINT NOT NULL DEFAULT 0;
DELETE FROM throttle;
CREATE INDEX throttle_by_account ON throttle (account);
CREATE INDEX throttle_by_time ON throttle (last_at);

CREATE INDEX familiar_addresses_by_time ON familiar_addresses (seen_at);
