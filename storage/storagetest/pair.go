package storagetest

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Pair is a PostgreSQL and its synchronous standby.
type Pair struct {
	t                testing.TB
	primary, standby *Cluster
}

// NewPair starts both. They end with the test.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	mustCluster(t) // fails or skips where there is no PostgreSQL
	primary, err := newCluster(InMemory(), fast)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(primary.Stop)
	standby, err := newFolder(InMemory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.Stop)
	primary.end(syscall.SIGINT)
	if err := standby.follow(primary); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(primary.start(), standby.start()); err != nil {
		t.Fatal(err)
	}
	p := &Pair{t, primary, standby}
	p.exec(primary, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	p.exec(primary, `SELECT pg_reload_conf()`)
	p.await("sync_state = 'sync'")
	p.exec(primary, "CREATE DATABASE pair")
	p.exec(primary, "ALTER DATABASE pair SET client_min_messages = error") // keyturn must ask for warnings itself
	p.await("replay_lsn = pg_current_wal_lsn()")
	return p
}

// await waits until a condition on the standby holds, as the primary sees it.
func (p *Pair) await(condition string) {
	p.t.Helper()
	query := `SELECT count(*) FROM pg_stat_replication WHERE ` + condition
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var n int
		if err := p.primary.admin.QueryRow(query).Scan(&n); err == nil && n > 0 {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(p.standby.folder, "log"))
			p.t.Fatalf("the standby does not follow (%s): %s", condition, log)
		}
	}
}

// follow makes a standby of a copy of a primary that is stopped. Not every package of PostgreSQL has pg_basebackup.
func (c *Cluster) follow(primary *Cluster) error {
	if out, err := exec.Command("cp", "-a", primary.data(), c.data()).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for name, text := range map[string]string{
		"standby.signal":       "",
		"postgresql.auto.conf": fmt.Sprintf("primary_conninfo = 'host=%s user=keyturn'\n", primary.folder),
	} {
		if err := os.WriteFile(filepath.Join(c.data(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pair) exec(c *Cluster, statement string) {
	p.t.Helper()
	if _, err := c.admin.Exec(statement); err != nil {
		p.t.Fatalf("%s: %v", statement, err)
	}
}

// URL names a database on both servers. keyturn has to find the one that accepts writes.
func (p *Pair) URL() string { return pairURL(p.standby.folder + "," + p.primary.folder) }

// Primary names the database on the primary.
func (p *Pair) Primary() string { return pairURL(p.primary.folder) }

// Standby names the database on the standby.
func (p *Pair) Standby() string { return pairURL(p.standby.folder) }

func pairURL(hosts string) string {
	return (&url.URL{
		Scheme:   "postgres",
		User:     url.User("keyturn"),
		Path:     "/pair",
		RawQuery: url.Values{"host": {hosts}, "sslmode": {"disable"}}.Encode(),
	}).String()
}

// FailOver promotes the standby and makes the primary read-only. Connections stay open.
func (p *Pair) FailOver() {
	p.t.Helper()
	p.exec(p.primary, `ALTER SYSTEM SET default_transaction_read_only = on`)
	p.exec(p.primary, `SELECT pg_reload_conf()`)
	p.exec(p.standby, `SELECT pg_promote(true, 30)`)
}

// LoseStandby ends the standby: commits wait for it, forever.
func (p *Pair) LoseStandby() { p.standby.end(syscall.SIGINT) }

// CancelWait cancels the wait of a commit for the standby, once there is one, as an operator might.
func (p *Pair) CancelWait() {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var n int
		err := p.primary.admin.QueryRow(`SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
			WHERE wait_event = 'SyncRep'`).Scan(&n)
		switch {
		case err != nil:
			p.t.Fatal(err)
		case n > 0:
			return
		case time.Now().After(deadline):
			p.t.Fatal("no commit waits for the standby")
		}
	}
}

// Stoppable is a PostgreSQL that a test stops and starts.
type Stoppable struct {
	t       testing.TB
	cluster *Cluster
}

// NewStoppable starts one. It ends with the test.
func NewStoppable(t testing.TB) *Stoppable {
	t.Helper()
	mustCluster(t) // fails or skips where there is no PostgreSQL
	c, err := newCluster(InMemory(), fast)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	if _, err := c.admin.Exec("CREATE DATABASE stoppable"); err != nil {
		t.Fatal(err)
	}
	return &Stoppable{t, c}
}

// URL names its database.
func (s *Stoppable) URL() string { return s.cluster.url("stoppable") }

// Stop stops it as an operator would.
func (s *Stoppable) Stop() { s.cluster.end(syscall.SIGINT) }

// Start starts it after Stop.
func (s *Stoppable) Start() {
	s.t.Helper()
	if err := s.cluster.start(); err != nil {
		s.t.Fatal(err)
	}
}
