package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Log is the log of a server. Its lines reach the writer a moment later, many at once, unless it is a terminal.
type Log struct {
	*slog.Logger
	Level *slog.LevelVar
	lines *lineBuffer
}

// NewLog is the log of the configuration, for a writer that is a terminal or not. Close must follow.
func NewLog(c Config, w io.Writer, terminal bool) Log {
	var at slog.LevelVar
	level, _ := c.logLevel()
	at.Set(level)
	o := &slog.HandlerOptions{Level: &at}
	lines := &lineBuffer{to: w, direct: terminal}
	if c.LogFormat == "text" || c.LogFormat == "" && terminal {
		return Log{slog.New(logHandler{slog.NewTextHandler(lines, o), lines}), &at, lines}
	}
	return Log{slog.New(logHandler{slog.NewJSONHandler(lines, o), lines}), &at, lines}
}

// Close writes what has not been written.
func (l Log) Close() { l.lines.flush() }

// logHandler writes times in UTC, and at once what a person should see at once.
type logHandler struct {
	slog.Handler
	lines *lineBuffer
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = r.Time.UTC()
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.lines.flush()
	}
	return err
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.lines}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.lines}
}

const (
	logDelay  = 50 * time.Millisecond // how long a line may wait
	logBuffer = 32 << 10              // bytes that may wait
)

// lineBuffer gathers lines, so that a request does not cost a system call for its own.
type lineBuffer struct {
	to     io.Writer
	direct bool
	mu     sync.Mutex
	held   []byte
}

// Write implements [io.Writer]. An error of a writing that came later is told to nobody, as there is nobody to tell it to.
func (l *lineBuffer) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 && !l.direct {
		time.AfterFunc(logDelay, l.flush)
	}
	l.held = append(l.held, line...)
	if l.direct || len(l.held) >= logBuffer {
		l.write()
	}
	return len(line), nil
}

func (l *lineBuffer) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
}

func (l *lineBuffer) write() {
	if len(l.held) > 0 {
		l.to.Write(l.held)
		l.held = l.held[:0]
	}
}

func (c Config) logLevel() (slog.Level, error) {
	var level slog.Level
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		return level, level.UnmarshalText([]byte(c.LogLevel))
	}
	return level, fmt.Errorf("log_level: %q is none of debug, info, warn, error", c.LogLevel)
}
