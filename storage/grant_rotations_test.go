package storage_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// crowd are grants of PostgreSQL that are presented together. Somebody else has locked the first three of them.
type crowd struct {
	db     *storage.DB
	raw    *sql.DB
	grants []storage.Grant
}

func mustCrowd(t *testing.T, db *storage.DB, raw *sql.DB, n int) crowd {
	t.Helper()
	u, c := mustUser(t, db, "bob"), mustClient(t, db, "crowd")
	all := crowd{db: db, raw: raw}
	for range n {
		all.grants = append(all.grants, mustGrant(t, db, u, c))
	}
	return all
}

// mustCrowdAndOne makes a crowd on a new database, and a grant of another user and client.
func mustCrowdAndOne(t *testing.T, n int) (crowd, storage.Grant) {
	t.Helper()
	url := storagetest.PostgresURL(t)
	db := storagetest.MustOpen(t, url)
	all := mustCrowd(t, db, storagetest.Raw(t, url), n)
	return all, mustGrant(t, db, mustUser(t, db, "alice"), mustClient(t, db, "app"))
}

// present presents all grants, and runs also beside them. It returns while some grants are still locked.
func (c crowd) present(t *testing.T, also ...func()) (unlock func()) {
	t.Helper()
	tx, err := c.raw.Begin()
	must(t, err)
	var locked, others sync.WaitGroup
	for i, g := range c.grants[:3] {
		_, err = tx.Exec(`SELECT 1 FROM grants WHERE id = $1 FOR UPDATE`, g.ID)
		must(t, err)
		locked.Go(func() { c.rotate(t, g) })
		c.waitForLocks(t, i+1)
	}
	for _, g := range c.grants[3:] {
		others.Go(func() { c.rotate(t, g) })
	}
	for _, do := range also {
		others.Go(do)
	}
	others.Wait()
	return func() {
		must(t, tx.Rollback())
		locked.Wait()
	}
}

func (c crowd) rotate(t *testing.T, g storage.Grant) {
	s, outcome, err := c.db.Grants().Rotate(ctx, refreshOf(g, 0), noon.Add(soon))
	if err != nil || outcome != storage.RefreshFresh || s.Generation != 1 || s.ID != g.ID {
		t.Errorf("%q, %+v, %v", outcome, s, err)
	}
}

// waitForLocks waits until n statements of the database wait for locks.
func (c crowd) waitForLocks(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var waiting int
		must(t, c.raw.QueryRow(`SELECT COUNT(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting))
		if waiting >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatal("too few wait for locks")
		}
	}
}

// Grants that are presented at the same moment share statements, and a locked one does not delay the others.
func TestRotationsShareStatements(t *testing.T) {
	t.Parallel()
	url := storagetest.PostgresURL(t)
	db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
	all := mustCrowd(t, db, raw, 43)
	unlock := all.present(t)
	var statements, done int
	must(t, raw.QueryRow(`SELECT COUNT(DISTINCT CAST(xmin AS TEXT)), COUNT(*) FROM grants WHERE generation = 1`).
		Scan(&statements, &done))
	if done != 40 || statements > 20 {
		t.Errorf("%d statements rotated %d grants, want 40 by at most half as many", statements, done)
	}
	unlock()
}

// Every case of a refresh has the same outcome among others, who do not notice it.
func TestRefreshAmongOthers(t *testing.T) {
	t.Parallel()
	url := storagetest.PostgresURL(t)
	db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
	for _, c := range refreshCases {
		t.Run(c.name, func(t *testing.T) {
			mustEmpty(t, raw)
			all := mustCrowd(t, db, raw, 6)
			c.run(t, db, func(
				_ context.Context, r storage.Refresh, now time.Time,
			) (s storage.GrantState, outcome storage.RefreshOutcome, err error) {
				unlock := all.present(t, func() { s, outcome, err = db.Grants().Rotate(ctx, r, now) })
				unlock()
				return s, outcome, err
			})
		})
	}
}

// If the database refuses one row, the others are rotated.
func TestRefusedRowAmongOthers(t *testing.T) {
	t.Parallel()
	all, bad := mustCrowdAndOne(t, 8)
	storagetest.MustExec(t, all.raw, fmt.Sprintf(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.id = %d THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$`, bad.ID),
		`CREATE TRIGGER refuse BEFORE UPDATE ON grants FOR EACH ROW EXECUTE FUNCTION refuse()`)
	unlock := all.present(t, func() {
		if _, _, err := all.db.Grants().Rotate(ctx, refreshOf(bad, 0), noon.Add(soon)); err == nil {
			t.Error("the refused row was rotated")
		}
	})
	unlock()
}

// A caller that leaves before its statement changes nothing, and nothing for the others.
func TestCallerLeavesTheCrowd(t *testing.T) {
	t.Parallel()
	all, gone := mustCrowdAndOne(t, 8)
	left, leave := context.WithCancel(ctx)
	leave()
	unlock := all.present(t, func() {
		_, _, err := all.db.Grants().Rotate(left, refreshOf(gone, 0), noon.Add(soon))
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Error(err)
		}
	})
	unlock()
	if s, err := all.db.Grants().State(ctx, gone.ID); err != nil || s.Generation != 0 {
		t.Errorf("generation %d, %v", s.Generation, err)
	}
}

// A row that cannot be read is the error of its caller alone.
func TestUnreadableRowAmongOthers(t *testing.T) {
	t.Parallel()
	all, bad := mustCrowdAndOne(t, 12)
	storagetest.MustExec(t, all.raw, `UPDATE users SET roles = 'not JSON' WHERE username = 'alice'`)
	unlock := all.present(t, func() {
		if _, outcome, err := all.db.Grants().Rotate(ctx, refreshOf(bad, 0), noon.Add(soon)); err == nil {
			t.Errorf("%q, no error", outcome)
		}
	})
	unlock()
}
