package storagetest

import (
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
	URL string // of the database, through the pooler
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
		"auth_type = trust\nauth_file = %s\n", u.Query().Get("host"), c.folder, filepath.Join(c.folder, "users"))
	for _, setting := range settings {
		ini += setting + "\n"
	}
	for name, content := range map[string]string{"ini": ini, "users": fmt.Sprintf("%q \"\"\n", u.User.Username())} {
		if err := os.WriteFile(filepath.Join(c.folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server := exec.Command(program, filepath.Join(c.folder, "ini"))
	server.SysProcAttr, server.Dir = c.attr, c.folder
	ended, err := onOwnThread(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT)
		<-ended
	})
	q := url.Values{"host": {c.folder}, "port": {"6432"}, "sslmode": {"disable"}}
	u.RawQuery = q.Encode()
	mustAnswer(t, u.String())
	return &Bouncer{u.String()}
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
