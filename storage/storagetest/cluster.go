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
	"syscall"
	"time"

	_ "github.com/lib/pq" // the driver of the connection that makes databases
)

// cluster is one throwaway PostgreSQL: data, socket and log in one folder.
type cluster struct {
	bin    string // folder of PostgreSQL's programs
	folder string
	attr   *syscall.SysProcAttr
	server *exec.Cmd
	ended  chan error
	admin  *sql.DB
}

// newCluster makes a cluster and waits until it answers. Nothing of it is durable: it is as fast as it can be.
func newCluster() (*cluster, error) {
	c, err := newFolder()
	if err != nil {
		return nil, err
	}
	if err := c.run("initdb", "-D", c.data(), "-U", "keyturn", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		os.RemoveAll(c.folder)
		return nil, err
	}
	return c, c.start()
}

// newFolder is a cluster that is not there yet.
func newFolder() (*cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "keyturn-pg-")
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: bin, folder: folder}
	c.attr, err = c.unprivileged()
	return c, err
}

// data is where the cluster keeps its files.
func (c *cluster) data() string { return filepath.Join(c.folder, "data") }

// run runs one of PostgreSQL's programs to its end.
func (c *cluster) run(name string, args ...string) error {
	p := exec.Command(filepath.Join(c.bin, name), args...)
	p.SysProcAttr, p.Dir = c.attr, c.folder
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
		return "", errors.New("no PostgreSQL server binaries: install Debian's postgresql package, or put initdb and postgres into PATH")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// unprivileged makes the processes those of the user postgres, or nobody, when the tests run as root, which PostgreSQL refuses.
func (c *cluster) unprivileged() (*syscall.SysProcAttr, error) {
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

// start runs the server, and waits until it answers. It runs on a thread that lives as long as the test binary: the kernel ends the server with that thread, so that a
// killed test leaves no server behind.
func (c *cluster) start() error {
	log, err := os.Create(filepath.Join(c.folder, "log"))
	if err != nil {
		return err
	}
	c.ended = make(chan error, 1)
	c.server = exec.Command(filepath.Join(c.bin, "postgres"), "-D", c.data(), "-k", c.folder, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "autovacuum=off")
	c.server.SysProcAttr, c.server.Dir = c.attr, c.folder
	c.server.Stdout, c.server.Stderr = log, log
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := c.server.Start()
		started <- err
		if err == nil {
			c.ended <- c.server.Wait()
		}
	}()
	if err := <-started; err != nil {
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
			c.stop()
			return fmt.Errorf("PostgreSQL did not start: %w\n%s", err, out)
		}
	}
}

// stop ends the server and removes its folder.
func (c *cluster) stop() {
	c.end(syscall.SIGQUIT)
	os.RemoveAll(c.folder)
}

// end ends the server.
func (c *cluster) end(signal os.Signal) {
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
