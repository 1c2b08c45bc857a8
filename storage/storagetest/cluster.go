package storagetest

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	_ "github.com/lib/pq" // the driver of the connection that makes databases
)

// Cluster is one throwaway PostgreSQL: data, socket and log in one folder.
type Cluster struct {
	bin      string // folder of PostgreSQL's programs
	folder   string
	settings []string // of the server, name=value
	attr     *syscall.SysProcAttr
	server   *exec.Cmd
	ended    chan error
	admin    *sql.DB

	strategy    string // option of CREATE DATABASE
	template    sync.Once
	templateErr error
}

// fast are settings for tests: nothing is durable.
var fast = []string{"fsync=off", "full_page_writes=off", "shared_buffers=64MB", "autovacuum=off"}

// StartCluster starts a durable PostgreSQL, on a disk, with default settings except those given, for a program that
// measures. Call Stop in the end.
func StartCluster(settings ...string) (*Cluster, error) { return newCluster("", settings) }

// Create creates a database and returns its URL.
func (c *Cluster) Create(name string) (databaseURL string, err error) {
	_, err = c.admin.Exec("CREATE DATABASE " + name)
	return c.url(name), err
}

// PID is the parent of the processes of the server.
func (c *Cluster) PID() int { return c.server.Process.Pid }

// newCluster starts a cluster, whose folder is in the given one, and waits until it answers.
func newCluster(in string, settings []string) (*Cluster, error) {
	c, err := newFolder(in)
	if err != nil {
		return nil, err
	}
	if err := c.run("initdb", "-D", c.data(), "-U", "keyturn", "-A", "trust", "-E", "UTF8", "--locale=C",
		"--no-sync"); err != nil {
		os.RemoveAll(c.folder)
		return nil, err
	}
	c.settings = settings
	return c, c.start()
}

// newFolder is a cluster that does not exist yet, in a folder of its own. Without a folder for that, it is in the one
// for temporary files.
func newFolder(in string) (*Cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(in, "keyturn-pg-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, folder: folder, settings: fast}
	c.attr, err = c.unprivileged()
	return c, err
}

// data is the data folder of the cluster.
func (c *Cluster) data() string { return filepath.Join(c.folder, "data") }

// run runs a program of PostgreSQL to its end.
func (c *Cluster) run(name string, args ...string) error {
	p := exec.Command(filepath.Join(c.bin, name), args...)
	p.SysProcAttr, p.Dir = c.attr, c.folder
	runtime.LockOSThread() // the program would end with its thread
	defer runtime.UnlockOSThread()
	if out, err := p.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// binaries finds the folder of the newest installed server: Debian keeps it out of PATH.
func binaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New(
			"no PostgreSQL server binaries: install Debian's postgresql package, or put initdb and postgres into PATH",
		)
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// unprivileged makes the processes those of the user postgres, or nobody, when the tests run as root, which PostgreSQL
// refuses.
func (c *Cluster) unprivileged() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{}
	dieWithParent(attr)
	if os.Getuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(c.folder, uid, gid)
}

// onOwnThread runs a server on a thread that lives as long as the server: the kernel ends the server with that thread,
// so that a killed test leaves no server behind.
func onOwnThread(server *exec.Cmd) (ended chan error, err error) {
	ended = make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := server.Start()
		started <- err
		if err == nil {
			ended <- server.Wait()
		}
	}()
	return ended, <-started
}

// start runs the server, and waits until it answers.
func (c *Cluster) start() error {
	log, err := os.Create(filepath.Join(c.folder, "log"))
	if err != nil {
		return err
	}
	args := []string{"-D", c.data(), "-k", c.folder, "-c", "listen_addresses=", "-c", "max_connections=400"}
	for _, setting := range c.settings {
		args = append(args, "-c", setting)
	}
	c.server = exec.Command(filepath.Join(c.bin, "postgres"), args...)
	c.server.SysProcAttr, c.server.Dir = c.attr, c.folder
	c.server.Stdout, c.server.Stderr = log, log
	if c.ended, err = onOwnThread(c.server); err != nil {
		return err
	}
	if c.admin, err = sql.Open("postgres", c.url("postgres")); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = c.admin.Ping(); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(log.Name())
			c.Stop()
			return fmt.Errorf("PostgreSQL did not start: %w\n%s", err, out)
		}
	}
}

// Stop ends the server and removes its folder.
func (c *Cluster) Stop() {
	c.end(syscall.SIGQUIT)
	os.RemoveAll(c.folder)
}

// end ends the server.
func (c *Cluster) end(signal os.Signal) {
	if c.admin != nil {
		c.admin.Close()
	}
	if c.server == nil || c.server.Process == nil {
		return
	}
	c.server.Process.Signal(signal)
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		c.server.Process.Kill()
	}
	c.server = nil
}
