package storage_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// openingEnv makes the test binary a process that opens the database named there.
const openingEnv = "KEYTURN_TEST_OPENING"

// opening waits until it is told to, and opens the database.
func opening(databaseURL string) {
	fmt.Println("ready")
	io.ReadAll(os.Stdin)
	db, err := open(databaseURL)
	if err == nil {
		_, err = db.Meta().SetOnce(ctx, "first", "one")
		db.Close()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// openAtOnce has several processes open a database at the same moment.
func openAtOnce(t *testing.T, databaseURL string, n int) {
	t.Helper()
	var processes []*exec.Cmd
	var starts []io.Closer
	var outputs []*bufio.Reader
	for range n {
		p := exec.Command(os.Args[0])
		// The race detector has programs wait a second before they end.
		p.Env = append(os.Environ(), openingEnv+"="+databaseURL, "GORACE=atexit_sleep_ms=10")
		in, err := p.StdinPipe()
		must(t, err)
		out, err := p.StdoutPipe()
		must(t, err)
		must(t, p.Start())
		processes, starts, outputs = append(processes, p), append(starts, in), append(outputs, bufio.NewReader(out))
	}
	for _, out := range outputs {
		if line, err := out.ReadString('\n'); line != "ready\n" {
			t.Fatal(line, err)
		}
	}
	for _, start := range starts {
		start.Close()
	}
	for i, p := range processes {
		text, _ := io.ReadAll(outputs[i])
		if err := p.Wait(); err != nil {
			t.Errorf("%v: %s", err, text)
		}
	}
}

// Any number of processes may open a new database, or one with an older schema, at once.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		for range 3 {
			openAtOnce(t, storagetest.Another(t, databaseURL), 5)
			old := storagetest.Another(t, databaseURL)
			must(t, storage.MigrateTo(ctx, old, 1))
			status, err := storage.StatusOf(ctx, storage.Options{Source: storagetest.MustSource(t, old)})
			if err != nil || status.Version != 1 {
				t.Fatalf("%+v, %v", status, err)
			}
			openAtOnce(t, old, 5)
		}
	})
	t.Run("pgbouncer", func(t *testing.T) {
		openAtOnce(t, storagetest.NewBouncer(t, storagetest.PostgresURL(t)).URL, 5)
	})
}
