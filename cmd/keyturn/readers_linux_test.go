package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
	"golang.org/x/sys/unix"
)

// readers open the reader of standard output or standard error, by its behaviour.
var readers = map[string]func(t *testing.T) *os.File{
	"never reads": func(t *testing.T) *os.File {
		_, write := pipe(t)
		return write
	},
	"goes away": func(t *testing.T) *os.File {
		read, write := pipe(t)
		read.Close()
		return write
	},
	"full disk": func(t *testing.T) *os.File {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		return full
	},
}

// pipe returns a pipe with a small buffer.
func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		read.Close()
		write.Close()
	})
	raw, err := write.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { shrinkPipe(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return read, write
}

// ends stops a process and waits for its end.
func ends(t *testing.T, c *exec.Cmd) error {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		c.Process.Kill()
		return errors.New("it does not end")
	}
}

// A server answers and stops with any reader of its log.
func TestServeWhateverReadsTheLog(t *testing.T) {
	t.Parallel()
	for name, open := range readers {
		t.Run(name, func(t *testing.T) {
			eachURL(t, func(t *testing.T, databaseURL string) {
				p := newProcess(t, databaseURL)
				p.must("", "migrate", "up")
				p.log = open(t)
				p.start()
				p.answers(300)
				c := p.running
				p.running = nil
				if err := ends(t, c); err != nil {
					t.Errorf("it ends with %v", err)
				}
			})
		})
	}
}

// answers sends requests. Each writes a line to the log.
func (p *process) answers(requests int) {
	p.t.Helper()
	client := &http.Client{Timeout: 20 * time.Second}
	for i := range requests {
		r, err := client.Get(fmt.Sprintf("%s/%s%d", p.base(), strings.Repeat("x", 100), i))
		if err != nil {
			p.t.Fatalf("request %d: %v", i, err)
		}
		io.Copy(io.Discard, r.Body)
		if r.Body.Close(); r.StatusCode != http.StatusNotFound {
			p.t.Fatalf("request %d: %d", i, r.StatusCode)
		}
	}
}

// A reader that comes back gets the buffered lines, and the number of the dropped ones.
func TestReaderOfTheLogComesBack(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "sqlite:"+t.TempDir()+"/keyturn.db")
	read, write := pipe(t)
	p.log = write
	p.start()
	p.answers(8000) // more than the buffer holds
	write.Close()
	var out sharedBuffer
	end := make(chan struct{})
	go func() {
		defer close(end)
		io.Copy(&out, read)
	}()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), `lines were dropped"`); {
		if time.Now().After(deadline) {
			t.Fatal("the log does not say that lines were dropped")
		}
		time.Sleep(10 * time.Millisecond)
	}
	dropped := func() bool {
		r, err := http.Get("http://127.0.0.1:" + p.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return err == nil && strings.Contains(string(b), "keyturn_log_lines_dropped_total ") &&
			!strings.Contains(string(b), "keyturn_log_lines_dropped_total 0\n")
	}()
	p.answers(10)
	c := p.running
	p.running = nil
	if err := ends(t, c); err != nil {
		t.Errorf("it ends with %v", err)
	}
	<-end
	got := out.String()
	if !strings.Contains(got, `lines were dropped"`) ||
		!strings.Contains(got, `"msg":"stopping"`) ||
		!dropped {
		t.Errorf("dropped: %v, the log ends with %s", dropped, got[max(0, len(got)-1000):])
	}
	at := strings.Index(got, `lines were dropped"`)
	if at > strings.Index(got, `"msg":"stopping"`) || strings.Count(got, `"msg":"request"`) < 1000 {
		t.Error("the lines are not in order, or too few")
	}
}

// A server runs with a closed standard error.
func TestServeWithClosedOutput(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "sqlite:"+t.TempDir()+"/keyturn.db")
	p.wrapper = `exec "$0" "$@" >&- 2>&-`
	p.start()
	p.answers(10)
	c := p.running
	p.running = nil
	if err := ends(t, c); err != nil {
		t.Errorf("it ends with %v", err)
	}
}

// dev serves with any reader of its output.
func TestDevWhateverReadsIt(t *testing.T) {
	t.Parallel()
	for name, open := range readers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, admin := storagetest.FreePort(t), storagetest.FreePort(t)
			c := exec.Command(os.Args[0], "dev", "--listen", "127.0.0.1:"+port, "--admin-listen", "127.0.0.1:"+admin)
			c.Args[0], c.Dir = "keyturn", t.TempDir()
			c.Stdout, c.Stderr = open(t), open(t)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer c.Process.Kill()
			if err := waitFor("http://127.0.0.1:" + port + "/readyz"); err != nil {
				t.Fatal(err)
			}
			for range 50 { // while it prints
				if err := waitFor("http://127.0.0.1:" + port + "/livez"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			exit, err := new(exec.ExitError), ends(t, c)
			inSelfTest := errors.As(err, &exit) && exit.ExitCode() == 1
			if err != nil && !inSelfTest {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}

// Other commands end by SIGPIPE when their reader goes away, as in `keyturn keys list | head -1`.
func TestCommandsEndBySIGPIPE(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "sqlite:"+t.TempDir()+"/keyturn.db")
	p.must("", "migrate", "up")
	c := p.command("keys", "list")
	c.Stdout = readers["goes away"](t)
	var said bytes.Buffer
	c.Stderr = &said
	err := c.Run()
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE {
		t.Errorf("it ends with %v: %s", err, said.String())
	}
}

// shrinkPipe reduces the buffer of a pipe to one page.
func shrinkPipe(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 4096) }
