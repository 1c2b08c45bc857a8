package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jmoiron/sqlx"
)

// testSchema has one table.
var testSchema = Schema{Files: fstest.MapFS{"00001_first.sql": {Data: []byte(`-- +goose Up
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
`)}}}

func openCommits(t *testing.T) *DB {
	t.Helper()
	source, err := ParseSource("sqlite:"+filepath.Join(t.TempDir(), "x.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), Options{
		Source:  source,
		Create:  true,
		Migrate: true,
		Schema:  testSchema,
	})
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

// put inserts one row.
func put(t *sqlx.Tx, name string) error {
	_, err := t.Exec(`INSERT INTO meta (name, value) VALUES ($1, '')`, name)
	return err
}

// Of many writes in one commit each keeps its own fate: one fails with all that it did, one panics, one belongs to
// nobody any more.
func TestCommitsKeepWritesApart(t *testing.T) {
	db := openCommits(t)
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
			err := db.commits.do(context.Background(), func(t *sqlx.Tx) error { return put(t, fmt.Sprint(i)) })
			if err != nil {
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
			err := db.commits.do(left, func(t *sqlx.Tx) error { return put(t, fmt.Sprint("gone ", i)) })
			if !errors.Is(err, context.Canceled) {
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
	if err := db.All(t.Context(), "names", &names, `SELECT name FROM meta
		WHERE name LIKE 'failed%' OR name LIKE 'gone%'`); err != nil ||
		len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
	if err := db.All(t.Context(), "names", &names, `SELECT name FROM meta
		WHERE name = 'first' OR value = ''`); err != nil ||
		len(names) != 21 {
		t.Errorf("%v %v", names, err)
	}
}

// What ends the transaction ends all writes in it: none is answered as if it had been written, and what comes later is
// written again.
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
	if err := db.All(t.Context(), "names", &names, `SELECT name FROM meta WHERE name = 'lost'`); err != nil ||
		len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
	_, err := db.Change(t.Context(), "later", `INSERT INTO meta (name, value) VALUES ($1, '')`, "later")
	if err != nil {
		t.Error(err)
	}
}

// A disk that is full is an unavailable database to all whose writes it has undone, and to nobody a row that is not
// there.
func TestCommitsOnAFullDisk(t *testing.T) {
	db := openCommits(t)
	var pages int
	if err := db.write.Get(&pages, `PRAGMA page_count`); err != nil {
		t.Fatal(err)
	}
	if err := db.write.Get(&pages, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+20)); err != nil {
		t.Fatal(err)
	}
	running, block := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	put := func(name string, before func()) {
		all.Go(func() {
			err := db.InTx(context.Background(), "put", func(t *Tx) error {
				before()
				_, err := t.Change(`INSERT INTO meta (name, value) VALUES ($1, '')`, name)
				return err
			})
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) {
				t.Errorf("%.20q: %v", name, err)
			}
		})
	}
	put("first", func() { close(running); <-block })
	<-running
	put(strings.Repeat("x", 1<<20), func() {})
	awaitWaiting(db, 1)
	close(block)
	all.Wait()
	var n int
	if err := db.Get(t.Context(), "names", &n, `SELECT COUNT(*) FROM meta WHERE name = 'first'`); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// A panic in the write of a caller who has gone is a panic all the same.
func TestCommitsPanicOfOneWhoHasGone(t *testing.T) {
	db := openCommits(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if recover() != "a panic" {
			t.Error("nobody has heard of it")
		}
	}()
	db.commits.do(ctx, func(*sqlx.Tx) error {
		cancel()
		time.Sleep(10 * time.Millisecond) // the caller has heard, or hears of the panic at once
		panic("a panic")
	})
}

// Whoever comes while others wait for the lock of another process does not share in their having waited.
func TestCommitsOfLateComers(t *testing.T) {
	db := openCommits(t)
	other, err := sqlitePool(sqliteDSN(db.path, "&_txlock=immediate"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := db.write.Exec(`PRAGMA busy_timeout = 1000`); err != nil {
		t.Fatal(err)
	}
	lock := other.MustBegin()
	put := func(name string) error {
		_, err := db.Change(context.Background(), name, `INSERT INTO meta (name, value) VALUES ($1, '')`, name)
		return err
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := put("early"); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		lock.Rollback()
	})
	for range 1000 { // until early has been counted, so that late comes after
		db.commits.mu.Lock()
		busy := db.commits.busy
		db.commits.mu.Unlock()
		if busy {
			break
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if err := put("late"); err != nil {
		t.Error(err)
	}
	all.Wait()
}

// Whoever still asks a database that has been closed is told that it is away.
func TestClosedIsUnavailable(t *testing.T) {
	db := openCommits(t)
	db.Close()
	var n int
	_, err := db.Change(t.Context(), "put", `INSERT INTO meta (name, value) VALUES ($1, '')`, "x")
	if err := errors.Join(err, db.Get(t.Context(), "get", &n, `SELECT 1`)); !errors.Is(err, ErrUnavailable) ||
		strings.Count(err.Error(), "closed") != 2 {
		t.Error(err)
	}
}

// A caller who goes away while its write runs does not see it write, and one whose write has not begun is not written.
func TestCommitsOfThoseWhoHaveGone(t *testing.T) {
	db := openCommits(t)
	running, block := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		var written int
		err := db.commits.do(ctx, func(*sqlx.Tx) error { close(running); <-block; written++; return nil })
		if !errors.Is(err, context.Canceled) || written != 1 {
			t.Errorf("%d, %v", written, err)
		}
	})
	<-running
	all.Go(func() {
		if err := db.commits.do(ctx, func(*sqlx.Tx) error { t.Error("it ran"); return nil }); !errors.Is(
			err,
			context.Canceled,
		) {
			t.Error(err)
		}
	})
	awaitWaiting(db, 1)
	cancel()
	time.Sleep(10 * time.Millisecond) // both have heard; were one to return early, the race detector would tell
	close(block)
	all.Wait()
}
