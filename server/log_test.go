package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn/keyturn/config"
)

// A line waits for a moment, a warning and the end do not wait.
func TestLogLinesWaitForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out Buffer
		log := NewLog(config.Config{LogLevel: "info"}, &out, false)
		wrote := func(lines int, name string) {
			t.Helper()
			synctest.Wait()
			if got := strings.Count(out.String(), "\n"); got != lines {
				t.Errorf("%s: %d lines: %s", name, got, out.String())
			}
		}
		log.Info("first")
		wrote(0, "at once")
		time.Sleep(logDelay)
		wrote(1, "after a moment")
		log.Info("second")
		log.Warn("third")
		wrote(3, "after a warning")
		log.Info("fourth")
		log.Close()
		wrote(4, "after the end")
		if !strings.HasSuffix(strings.SplitN(out.String(), `","level"`, 2)[0], "Z") {
			t.Error(out.String())
		}
	})
}

// A terminal has each line at once.
func TestLogOnATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out Buffer
		log := NewLog(config.Config{LogLevel: "info"}, &out, true)
		defer log.Close()
		began := time.Now()
		log.Info("first")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if out.String() == "" || time.Since(began) > time.Millisecond {
			t.Error("it waits")
		}
	})
}

var noticed = regexp.MustCompile(`"msg":"(\d+) lines were dropped"`)

// delivered checks that the numbered lines that came are in order, and that notices tell of each that did not come, at
// its place.
func delivered(t *testing.T, log string) (lines int) {
	t.Helper()
	next := 0
	for line := range strings.Lines(log) {
		if m := noticed.FindStringSubmatch(line); m != nil {
			next += Must(strconv.Atoi(m[1]))
			continue
		}
		var r struct{ N int }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%.80q: %v", line, err)
		}
		if r.N != next {
			t.Fatalf("line %d comes where line %d should", r.N, next)
		}
		next++
		lines++
	}
	return lines
}

// Nobody waits for a reader that does not read. What it misses is counted, and the log says so when it reads again.
func TestLogIsNeverRead(t *testing.T) {
	read, write := io.Pipe()
	log := NewLog(config.Config{LogLevel: "info"}, write, false)
	padding := strings.Repeat("x", 400)
	const all = 10_000
	for n := range all {
		log.Info("a line", "n", n, "padding", padding)
	}
	if log.Dropped() == 0 || log.Dropped() == all {
		t.Errorf("%d lines were dropped", log.Dropped())
	}
	log.lines.mu.Lock()
	if n := cap(log.lines.held); n > 2*logBuffer {
		t.Errorf("%d bytes are held", n)
	}
	log.lines.mu.Unlock()
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(&out, read)
	}()
	for log.lines.Flush(); log.lines.full(); log.lines.Flush() {
	}
	missed := int(log.Dropped())
	log.Info("a line", "n", all)
	log.Close()
	write.Close()
	<-done
	if lines := delivered(t, out.String()); lines != all+1-missed || !noticed.MatchString(out.String()) {
		t.Errorf("%d lines came, %d were dropped", lines, missed)
	}
}

func (l *Lines) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held) > 0 || l.overflow > 0
}

// moody is a writer that fails for a while, after a part of what it is given.
type moody struct {
	Buffer
	fails atomic.Bool
	part  int
}

func (m *moody) Write(p []byte) (int, error) {
	if m.fails.Load() {
		n := min(m.part, len(p))
		m.Buffer.Write(p[:n])
		return n, errors.New("no space left on device")
	}
	return m.Buffer.Write(p)
}

// A full disk costs the lines that did not fit, and the log says so once there is room again. What was written in part
// does not spoil the next line.
func TestLogOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, part := range []int{0, 1, 100, 500} {
		synctest.Test(t, func(t *testing.T) {
			out := &moody{part: part}
			log := NewLog(config.Config{LogLevel: "info"}, out, false)
			defer log.Close()
			for n := range 100 {
				out.fails.Store(n >= 20 && n < 50)
				log.Info("a line", "n", n)
				if n%10 == 9 {
					time.Sleep(2 * logDelay)
					synctest.Wait()
				}
			}
			if got := log.Dropped(); got == 0 || got > 30 || part == 0 && got != 30 {
				t.Errorf("%d lines were dropped", got)
			}
			text := out.String()
			if part > 0 { // the part of a line that was on the disk already is no line
				var whole strings.Builder
				for line := range strings.Lines(text) {
					if json.Valid([]byte(line)) {
						whole.WriteString(line)
					}
				}
				text = whole.String()
			}
			if lines := delivered(t, text); lines != 100-int(log.Dropped()) {
				t.Errorf("%d lines came, %d were dropped", lines, log.Dropped())
			}
		})
	}
}

// A server that ends does not wait for long for a reader that does not read.
func TestLogCloseIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		log := NewLog(config.Config{LogLevel: "info"}, write, false)
		log.Info("a line")
		time.Sleep(2 * logDelay)
		log.Info("another")
		began := time.Now()
		log.Close()
		if took := time.Since(began); took != logTimeout {
			t.Errorf("it waits for %v", took)
		}
		read.Close()
		log.Info("after the end")
	})
}

// Many who log at once lose nothing to each other.
func TestLogInParallel(t *testing.T) {
	t.Parallel()
	var out Buffer
	log := NewLog(config.Config{LogLevel: "info"}, &out, false)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 200 {
				log.Info("a line", "i", i)
				if i%50 == 0 {
					log.lines.Flush()
				}
			}
		})
	}
	all.Wait()
	log.Close()
	if got := strings.Count(out.String(), "\n"); got != 1600 || log.Dropped() != 0 {
		t.Errorf("%d lines, %d dropped", got, log.Dropped())
	}
}

// A line is shorter than 4 KiB, whatever is logged, and still a line of its format.
func TestLogLinesAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 20_000)
	escaped := strings.Repeat("\x01", 20_000)
	wide := strings.Repeat("\u00e9", 20_000)
	many := []any{}
	for i := range 200 {
		many = append(many, fmt.Sprintf("attribute%d", i), long)
	}
	records := map[string]func(*slog.Logger){
		"a long message":     func(l *slog.Logger) { l.Info(long) },
		"an escaped message": func(l *slog.Logger) { l.Warn(escaped) },
		"a long text":        func(l *slog.Logger) { l.Info("m", "path", long) },
		"escaped texts":      func(l *slog.Logger) { l.Info("m", "a", escaped, "b", escaped, "c", escaped) },
		"wide texts": func(l *slog.Logger) {
			l.Info("m", "a", wide, "b", "x"+wide, "c", wide, "d", wide, "e", wide, "f", wide)
		},
		"an error":          func(l *slog.Logger) { l.Error("m", "error", errors.New(long)) },
		"a stack":           func(l *slog.Logger) { l.Error("m", "stack", long) },
		"a list":            func(l *slog.Logger) { l.Info("m", "list", []string{long, long}) },
		"a group":           func(l *slog.Logger) { l.Info("m", slog.Group("g", "a", long, "b", long)) },
		"many attributes":   func(l *slog.Logger) { l.Info("m", many...) },
		"attributes before": func(l *slog.Logger) { l.With(many...).Info("m", "a", long) },
		"attributes in a group": func(l *slog.Logger) {
			l.WithGroup("g").With("a", long).Info("m", "b", long)
		},
	}
	for _, format := range []string{"json", "text"} {
		for name, record := range records {
			var out Buffer
			log := NewLog(config.Config{LogLevel: "info", LogFormat: format}, &out, false)
			record(log.Logger)
			log.Close()
			line := out.String()
			whole := strings.HasPrefix(line, "time=") && strings.Contains(line, "level=")
			if format == "json" {
				whole = json.Valid([]byte(line))
			}
			if len(line) >= maxLine || strings.Count(line, "\n") != 1 || !whole {
				t.Errorf("%s, %s: %d bytes: %.300s", format, name, len(line), line)
			}
			if strings.Contains(line, `\ufffd`) || strings.Contains(line, "\ufffd") {
				t.Errorf("%s, %s: a character was cut through: %s", format, name, line)
			}
		}
	}
}

// A method that HTTP does not know is a word of a stranger, and the log has its beginning only.
func TestLogOfAStrangersMethod(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.RawExchange(strings.Repeat("M", 9<<10) + " /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		h.Get("/livez")
		waitUntil(t, func() bool { return strings.Contains(h.Log.String(), `"method":"`+strings.Repeat("M", 16)+`"`) })
		waitUntil(t, func() bool { return strings.Contains(h.Log.String(), `"method":"`+http.MethodGet+`"`) })
	})
}

// waitUntil waits for what a server does after it has answered.
func waitUntil(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}
