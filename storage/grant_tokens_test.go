package storage_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// The batch of access tokens and the state of one grant agree on what is alive, whatever ended it, in batches of every
// size.
func TestTokenStatesAgreeWithGrants(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, databaseURL string) {
		db, raw := storagetest.MustOpen(t, databaseURL), storagetest.Raw(t, databaseURL)
		storagetest.MustExec(t, raw, `INSERT INTO signing_keys
				(kid, state, alg, bits, public_key, private_key, published_at, signs_until, reason, mac)
			VALUES ('good', 'previous', '', 0, '', '', 0, 0, '', ''), ('bad', 'revoked', '', 0, '', '', 0, 0, '', '')`)
		client := mustClient(t, db, "app")
		var grants []storage.Grant
		for _, name := range []string{"alive", "revoked", "disabled", "changed", "deleted"} {
			grants = append(grants, mustGrant(t, db, mustUser(t, db, name), client))
		}
		revocation := storage.Revocation{ID: grants[1].ID, Caller: storage.Caller{ID: "app"}}
		ended, err := db.Grants().Revoke(ctx, admin, revocation, noon)
		if err != nil || !ended {
			t.Fatal(ended, err)
		}
		storagetest.MustExec(t, raw,
			`UPDATE users SET disabled_at = 1 WHERE username = 'disabled'`,
			`UPDATE users SET epoch = epoch + 1 WHERE username = 'changed'`,
			`DELETE FROM users WHERE username = 'deleted'`)
		check := func(now time.Time, wantAlive bool) {
			var all sync.WaitGroup
			for i := range 150 {
				g := grants[i%len(grants)]
				all.Go(func() {
					s, err := db.Grants().State(ctx, g.ID)
					if err != nil {
						t.Error(err)
						return
					}
					got, err := db.Grants().TokenState(ctx, callerOf(client), g.ID, "good", now)
					if err != nil || got.Live != s.Live(now) || got.ClientID != "app" ||
						got.Live && got.Username != *s.Username {
						t.Errorf("%+v, the grant: %v, %v", got, s.Live(now), err)
					}
					if g.ID == grants[0].ID && got.Live != wantAlive {
						t.Errorf("%+v", got)
					}
				})
			}
			all.Wait()
		}
		check(noon, true)
		check(grants[0].ExpiresAt.Time, false)
		for _, c := range []struct {
			id  storage.GrantID
			kid string
		}{{grants[0].ID, "bad"}, {grants[0].ID, "none"}, {1, "good"}} {
			if got, err := db.Grants().TokenState(ctx, callerOf(client), c.id, c.kid, noon); err != nil || got.Live {
				t.Errorf("%v %s: %+v, %v", c.id, c.kid, got, err)
			}
		}
		storagetest.MustExec(t, raw, `UPDATE clients SET epoch = epoch + 1`)
		check(noon, false)
	})
}

// Whatever is changed of a client, also twice at one moment and to what it was, is seen by whoever asks as what the
// client was before.
func TestClientHasChanged(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		client := mustClient(t, db, "app")
		g := mustGrant(t, db, mustUser(t, db, "alice"), client)
		is := func(c storage.Client) bool {
			t.Helper()
			_, err := db.Grants().TokenState(ctx, callerOf(c), g.ID, "none", noon)
			if err != nil && !errors.Is(err, storage.ErrClientChanged) {
				t.Error(err)
			}
			return err == nil
		}
		if !is(client) {
			t.Error("a client is not itself")
		}
		for name, change := range map[string]func() error{
			"update": func() error { return db.Clients().Update(ctx, admin, client, client, noon) },
			"secret": func() error {
				now, err := db.Clients().ByID(ctx, "app")
				if err != nil {
					return err
				}
				r := storage.SecretRotation{ID: "app", Hash: client.SecretHash, Revision: now.Revision, KeepUntil: noon}
				return db.Clients().RotateSecret(ctx, admin, r, noon)
			},
			"disable":    func() error { return db.Clients().Disable(ctx, admin, "app", noon) },
			"enable":     func() error { return db.Clients().Enable(ctx, admin, "app", noon) },
			"end grants": func() error { return db.Clients().RevokeGrants(ctx, admin, "app", noon) },
			"restore":    func() error { return db.RecordRestore(ctx, admin, noon) },
			"end all":    func() error { return db.Grants().RevokeAll(ctx, admin, noon) },
			"make it again": func() error {
				deleted := db.Clients().Delete(ctx, admin, "app", noon)
				return errors.Join(deleted, db.Clients().Create(ctx, admin, client))
			},
		} {
			must(t, change())
			if is(client) {
				t.Errorf("%s: not seen", name)
			}
			client = mustRead(t, db, "app")
			if client.DisabledAt == nil && !is(client) {
				t.Errorf("%s: a client that was read again is not itself", name)
			}
		}
		stale := client
		must(t, db.Clients().Update(ctx, admin, client, client, noon))
		if err := db.Clients().Update(ctx, admin, stale, stale, noon); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("an update of what is not there any more: %v", err)
		}
		must(t, db.Clients().Delete(ctx, admin, "app", noon))
		if is(client) {
			t.Error("a client that is gone")
		}
	})
}

// Revocations that come at once end each its own grant, and leave a whole audit trail.
func TestRevocationsAtOnce(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		user, client := mustUser(t, db, "alice"), mustClient(t, db, "app")
		const n = 90
		var all sync.WaitGroup
		for range n {
			g := mustGrant(t, db, user, client)
			all.Go(func() {
				other := storage.Revocation{ID: g.ID, Caller: storage.Caller{ID: "other"}}
				ended, err := db.Grants().Revoke(ctx, admin, other, noon)
				if err != nil || ended {
					t.Errorf("by another client: %v, %v", ended, err)
				}
				app := storage.Caller{ID: "app"}
				own := storage.Revocation{ID: g.ID, Caller: app, FamilyHash: g.FamilyHash}
				if ended, err := db.Grants().Revoke(ctx, admin, own, noon); err != nil || !ended {
					t.Errorf("%v, %v", ended, err)
				}
				ended, err = db.Grants().Revoke(ctx, admin, storage.Revocation{ID: g.ID, Caller: app}, noon)
				if err != nil || ended {
					t.Errorf("again: %v, %v", ended, err)
				}
			})
		}
		all.Wait()
		records, err := db.Audit().Records(ctx, storage.AuditFilter{Type: "grant.revoke"})
		if err != nil || len(records) != n {
			t.Fatalf("%d records, %v", len(records), err)
		}
		if _, err := db.Audit().Verify(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Replicas that revoke the same grants in opposite orders do not wait for each other until one of them must give up.
func TestRevocationsOfReplicas(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresReady(t)
	replicas := []*storage.DB{storagetest.MustOpen(t, databaseURL), storagetest.MustOpen(t, databaseURL)}
	user, client := mustUser(t, replicas[0], "alice"), mustClient(t, replicas[0], "app")
	for range 5 {
		var grants []storage.Grant
		for range 40 {
			grants = append(grants, mustGrant(t, replicas[0], user, client))
		}
		var ended atomic.Int64
		var all sync.WaitGroup
		for _, db := range replicas {
			slices.Reverse(grants)
			for _, g := range slices.Clone(grants) {
				all.Go(func() {
					ok, err := db.Grants().
						Revoke(ctx, admin, storage.Revocation{ID: g.ID, Caller: storage.Caller{ID: "app"}}, noon)
					if err != nil {
						t.Error(err)
					}
					if ok {
						ended.Add(1)
					}
				})
			}
		}
		all.Wait()
		if ended.Load() != int64(len(grants)) {
			t.Errorf("%d grants were ended, of %d", ended.Load(), len(grants))
		}
	}
	var deadlocks int
	raw := storagetest.Raw(t, databaseURL)
	// Before PostgreSQL 15 the figures come half a second later.
	storagetest.MustExec(t, raw, `DO $$ BEGIN PERFORM pg_stat_force_next_flush();
		EXCEPTION WHEN undefined_function THEN PERFORM pg_sleep(0.6); END $$`)
	if err := raw.QueryRow(`SELECT deadlocks FROM pg_stat_database
		WHERE datname = current_database()`).Scan(&deadlocks); err != nil ||
		deadlocks > 0 {
		t.Errorf("%d deadlocks, %v", deadlocks, err)
	}
}

// callerOf is a client as one from a cache asks.
func callerOf(c storage.Client) storage.Caller { return storage.Caller{ID: c.ID, Revision: c.Revision} }
