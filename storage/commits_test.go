package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
)

func openCommits(t *testing.T) *DB {
	t.Helper()
	db, err := Open(t.Context(), Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "x.db"), Create: true, Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// awaitWaiting returns when as many writes wait, or, when that goes on for too long, without.
func awaitWaiting(db *DB, n int) {
	for range 5000 {
		db.commits.mu.Lock()
		waiting := len(db.commits.waiting)
		db.commits.mu.Unlock()
		if waiting >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Of many writes in one commit each keeps its own fate: one fails with all that it did, one panics, one belongs to nobody any more.
func TestCommitsKeepWritesApart(t *testing.T) {
	db := openCommits(t)
	put := func(t *sqlx.Tx, name string) error {
		_, err := t.Exec(`INSERT INTO meta (name, value) VALUES ($1, '')`, name)
		return err
	}
	running, block := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		db.commits.do(context.Background(), func(t *sqlx.Tx) error { close(running); <-block; return put(t, "first") })
	})
	<-running
	failed, gone := errors.New("failed"), errors.New("gone")
	left, leave := context.WithCancelCause(context.Background())
	for i := range 20 {
		all.Go(func() {
			if err := db.commits.do(context.Background(), func(t *sqlx.Tx) error { return put(t, fmt.Sprint(i)) }); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			err := db.commits.do(context.Background(), func(t *sqlx.Tx) error {
				return apart(t, func() error { return errors.Join(put(t, fmt.Sprint("failed ", i)), failed) })
			})
			if !errors.Is(err, failed) {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := db.commits.do(left, func(t *sqlx.Tx) error { return put(t, fmt.Sprint("gone ", i)) }); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		all.Go(func() {
			defer func() {
				if recover() != "a panic" {
					t.Error("no panic")
				}
			}()
			db.commits.do(context.Background(), func(t *sqlx.Tx) error {
				return apart(t, func() error { panic(cmp.Or(any(put(t, fmt.Sprint("failed too ", i))), "a panic")) })
			})
		})
	}
	awaitWaiting(db, 80)
	leave(gone)
	close(block)
	all.Wait()
	var names []string
	if err := db.all(t.Context(), "names", &names, `SELECT name FROM meta WHERE name LIKE 'failed%' OR name LIKE 'gone%'`); err != nil || len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
	if err := db.all(t.Context(), "names", &names, `SELECT name FROM meta WHERE name = 'first' OR value = ''`); err != nil || len(names) != 21 {
		t.Errorf("%v %v", names, err)
	}
}

// What ends the transaction ends all writes in it: none is answered as if it had been written, and what comes later is written again.
func TestCommitsFailTogether(t *testing.T) {
	db := openCommits(t)
	running, block := make(chan struct{}), make(chan struct{})
	errs := make([]error, 2)
	var all sync.WaitGroup
	all.Go(func() {
		errs[0] = db.commits.do(context.Background(), func(t *sqlx.Tx) error {
			close(running)
			<-block
			_, err := t.Exec(`INSERT INTO meta (name, value) VALUES ('lost', '')`)
			return err
		})
	})
	<-running
	all.Go(func() {
		errs[1] = db.commits.do(context.Background(), func(t *sqlx.Tx) error {
			_, err := t.Exec(`PRAGMA max_page_count = 1; CREATE TABLE big (x)`)
			t.Exec(`PRAGMA max_page_count = 1000000`)
			return err
		})
	})
	awaitWaiting(db, 1)
	close(block)
	all.Wait()
	if !isUnavailable(errs[0]) || !isUnavailable(errs[1]) {
		t.Errorf("%v, %v", errs[0], errs[1])
	}
	var names []string
	if err := db.all(t.Context(), "names", &names, `SELECT name FROM meta WHERE name = 'lost'`); err != nil || len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
	if _, err := db.change(t.Context(), "later", `INSERT INTO meta (name, value) VALUES ($1, '')`, "later"); err != nil {
		t.Error(err)
	}
}
