package storagetest

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Bouncer is a PgBouncer in front of a PostgreSQL.
type Bouncer struct {
	URL     string // of the database, through the pooler
	t       testing.TB
	program string
	cluster *Cluster // its folder and its user
	server  *exec.Cmd
	ended   chan error
}

// NewBouncer starts a PgBouncer with its default configuration and the given settings, name=value. It ends with the
// test.
func NewBouncer(t testing.TB, databaseURL string, settings ...string) *Bouncer {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // where Debian has it, out of the PATH of some users
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatal("no PgBouncer: `make tools` installs it, or install Debian's pgbouncer package")
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newFolder(InMemory()) // for the user that it runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(c.folder) })
	ini := fmt.Sprintf("[databases]\n* = host=%s port=5432\n[pgbouncer]\nunix_socket_dir = %s\nlisten_port = 6432\n"+
		"auth_type = trust\nadmin_users = keyturn\nauth_file = %s\n", u.Query().Get("host"), c.folder,
		filepath.Join(c.folder, "users"))
	for _, setting := range settings {
		ini += setting + "\n"
	}
	for name, content := range map[string]string{"ini": ini, "users": fmt.Sprintf("%q \"\"\n", u.User.Username())} {
		if err := os.WriteFile(filepath.Join(c.folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	q := url.Values{"host": {c.folder}, "port": {"6432"}, "sslmode": {"disable"}}
	u.RawQuery = q.Encode()
	b := &Bouncer{URL: u.String(), t: t, program: program, cluster: c}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *Bouncer) start() {
	b.t.Helper()
	b.server = exec.Command(b.program, filepath.Join(b.cluster.folder, "ini"))
	b.server.SysProcAttr, b.server.Dir = b.cluster.attr, b.cluster.folder
	var err error
	if b.ended, err = onOwnThread(b.server); err != nil {
		b.t.Fatal(err)
	}
	mustAnswer(b.t, b.URL)
}

func (b *Bouncer) stop() {
	if b.server.Process == nil {
		return // it did not start
	}
	b.server.Process.Signal(syscall.SIGQUIT)
	<-b.ended
}

// Restart ends all connections.
func (b *Bouncer) Restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

// Pause lets new clients wait, until Resume. PgBouncer answers the command when no session is in use; keyturn keeps its
// own, so nobody waits for the answer.
func (b *Bouncer) Pause() {
	b.t.Helper()
	refused := make(chan error, 1)
	go func() {
		if err := b.admin("PAUSE"); err != nil {
			refused <- err
		}
	}()
	for began := time.Now(); b.answers(); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-refused:
			b.t.Fatalf("PgBouncer does not pause: %v", err)
		default:
		}
		if time.Since(began) > 10*time.Second {
			b.t.Fatal("PgBouncer does not pause")
		}
	}
}

// answers reports whether a new client gets an answer, or an error, in time. lib/pq waits for it beyond any deadline:
// until Resume.
func (b *Bouncer) answers() bool {
	b.t.Helper()
	pool, err := sql.Open("postgres", b.URL)
	if err != nil {
		b.t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		pool.Ping()
		pool.Close()
		close(answered)
	}()
	select {
	case <-answered:
		return true
	case <-time.After(500 * time.Millisecond):
		return false
	}
}

// Resume ends a pause. It fails if there is none.
func (b *Bouncer) Resume() {
	b.t.Helper()
	if err := b.admin("RESUME"); err != nil {
		b.t.Fatal(err)
	}
}

// admin runs a command of its console, over a connection of its own. A pool would send a pause again, to the new
// process, when a restart interrupts it.
func (b *Bouncer) admin(command string) error {
	u, err := url.Parse(b.URL)
	if err != nil {
		return err
	}
	u.Path = "/pgbouncer"
	pool, err := sql.Open("postgres", u.String())
	if err != nil {
		return err
	}
	defer pool.Close()
	console, err := pool.Conn(context.Background())
	if err != nil {
		return err
	}
	defer console.Close()
	_, err = console.ExecContext(context.Background(), command)
	return err
}

// mustAnswer waits until a server answers.
func mustAnswer(t testing.TB, databaseURL string) {
	t.Helper()
	pool, err := sql.Open("postgres", databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := pool.Ping()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not answer: %v", err)
		}
	}
}
