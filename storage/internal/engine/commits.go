package engine

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
)

// maxCommit is how many writes share a commit.
const maxCommit = 64

// commits groups the writes of an SQLite database: writes that arrive during a commit share the next one, and with it
// the wait for the disk. Nobody gets an answer before the commit.
type commits struct {
	pool    *sqlx.DB
	mu      sync.Mutex
	waiting []*write
	busy    bool
	begun   atomic.Int64 // since when a commit waits for the lock of the database, unix nanoseconds; or 0
}

// locked returns how long a commit has been waiting for the lock of the database, which another process holds.
func (c *commits) locked() time.Duration {
	begun := c.begun.Load()
	if begun == 0 {
		return 0
	}
	return time.Since(time.Unix(0, begun))
}

// write is a write in the queue.
type write struct {
	ctx      context.Context // of the caller
	run      func(*sqlx.Tx) error
	claimed  atomic.Bool // by the commit that runs it, or by a caller that leaves first
	ran      chan struct{}
	err      error
	panicked any
	done     chan struct{} // the commit is over
}

// do runs one write in a commit. If the context ends before the write runs, it never runs; if after, its outcome is
// unknown. A panic in the write reaches its caller; what it did until then is committed with the others, unless it runs
// apart.
func (c *commits) do(ctx context.Context, run func(*sqlx.Tx) error) error {
	w := &write{
		ctx:  ctx,
		run:  run,
		ran:  make(chan struct{}),
		done: make(chan struct{}),
	}
	c.mu.Lock()
	c.waiting = append(c.waiting, w)
	if !c.busy {
		c.busy = true
		go c.work()
	}
	c.mu.Unlock()
	var err error
	select {
	case <-w.done:
		err = w.err
	case <-ctx.Done():
		if w.claimed.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-w.ran // it writes to variables of the caller
		err = ctx.Err()
	}
	if w.panicked != nil {
		panic(w.panicked)
	}
	return err
}

// work commits until the queue is empty.
func (c *commits) work() {
	for c.more() {
		taken, err := c.commit()
		for _, w := range taken {
			if err != nil {
				w.err = err
			}
			close(w.done)
		}
	}
}

func (c *commits) more() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = len(c.waiting) > 0
	return c.busy
}

func (c *commits) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// take removes up to n writes from the queue.
func (c *commits) take(n int) []*write {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, len(c.waiting))
	taken := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	return taken
}

// commit runs one transaction. Its error is that of all the writes in it.
func (c *commits) commit() (taken []*write, err error) {
	waited := c.count()
	c.begun.Store(time.Now().UnixNano())
	t, err := c.pool.BeginTxx(context.Background(), nil)
	c.begun.Store(0)
	if err != nil {
		return c.take(waited), err // later arrivals have not waited yet
	}
	for len(taken) < maxCommit && err == nil {
		next := c.take(1)
		if len(next) == 0 {
			break
		}
		taken = append(taken, next[0])
		err = next[0].in(t)
	}
	if err != nil {
		t.Rollback() // SQLite may have done so by itself
		return taken, err
	}
	return taken, t.Commit()
}

// in runs the write in a transaction, unless its caller has left. It returns an error that ends the whole transaction,
// and keeps one that concerns this write alone.
func (w *write) in(t *sqlx.Tx) error {
	if w.err = w.ctx.Err(); w.err != nil || !w.claimed.CompareAndSwap(false, true) {
		return nil
	}
	defer close(w.ran)
	defer func() { w.panicked = recover() }()
	w.err = w.run(t)
	code, ok := sqliteCode(w.err)
	if ok && sqliteUnavailable(code) || errors.Is(w.err, driver.ErrBadConn) || errors.Is(w.err, sql.ErrTxDone) {
		return w.err
	}
	return nil
}

// apart runs several statements in a shared transaction: all or none take effect, also if they panic.
func apart(t *sqlx.Tx, run func() error) error {
	if _, err := t.Exec(`SAVEPOINT apart`); err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // a panic
			t.Exec(`ROLLBACK TO apart`)
			t.Exec(`RELEASE apart`)
		}
	}()
	err := run()
	done = true
	if err != nil {
		if _, e := t.Exec(`ROLLBACK TO apart`); e != nil {
			return fmt.Errorf("%w: the transaction is gone, with what others did in it: %v", driver.ErrBadConn, err)
		}
	}
	_, e := t.Exec(`RELEASE apart`)
	return errors.Join(err, e)
}
