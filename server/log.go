package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/config"
)

// Log is the log of a server. Nothing that becomes of its reader holds the server up. Its lines reach the writer a
// moment later, many at once, unless it is a terminal.
type Log struct {
	*slog.Logger
	Level *slog.LevelVar
	lines *Lines
}

// NewLog is the log of the configuration, for a writer that is a terminal or not. Close must follow, or that of w, if w
// is [*Lines] already.
func NewLog(c config.Config, w io.Writer, terminal bool) Log {
	lines, ok := w.(*Lines)
	if !ok {
		lines = NewLines(w, terminal)
	}
	var at slog.LevelVar
	level, _ := c.Level()
	at.Set(level)
	text := c.LogFormat == "text" || c.LogFormat == "" && terminal
	lines.notice = func(dropped int64) []byte { return droppedNotice(text, dropped) }
	base := newFormat(text, shortLines{lines}, &at)
	return Log{slog.New(logHandler{Handler: base, base: base, lines: lines}), &at, lines}
}

// Close writes what has not been written, if that does not take long.
func (l Log) Close() { l.lines.Close() }

// Dropped is how many lines were dropped because nobody took them.
func (l Log) Dropped() int64 { return l.lines.Dropped() }

func newFormat(text bool, w io.Writer, at slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: at}
	if text {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}

// droppedNotice is the line that stands where lines were dropped.
func droppedNotice(text bool, dropped int64) []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now().UTC(), slog.LevelWarn, fmt.Sprintf("%d lines were dropped", dropped), 0)
	r.AddAttrs(slog.String("event", "log.dropped"), slog.Int64("lines", dropped))
	if err := newFormat(text, &b, slog.LevelDebug).Handle(context.Background(), r); err != nil {
		return nil
	}
	return b.Bytes()
}

// Sizes in bytes.
const (
	maxLine    = 4096 // a line with its end is shorter
	maxMessage = 256
	maxText    = 512  // an attribute
	maxStack   = 2048 // an attribute of that name
)

var errLongLine = errors.New("log: the line is too long")

// shortLines refuses lines that are too long.
type shortLines struct{ *Lines }

func (s shortLines) Write(line []byte) (int, error) {
	if len(line) >= maxLine {
		return 0, errLongLine
	}
	return s.Lines.Write(line)
}

// logHandler writes times in UTC, at once what a person should see at once, and lines that are bounded, whatever a
// stranger has put into them.
type logHandler struct {
	slog.Handler
	base  slog.Handler // without attributes
	lines *Lines
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = r.Time.UTC()
	if isLong(r) {
		r = cutRecord(r, maxText)
	}
	err := h.Handler.Handle(ctx, r)
	for limit := maxText / 4; errors.Is(err, errLongLine) && limit > 0; limit /= 4 {
		err = h.Handler.Handle(ctx, cutRecord(r, limit))
	}
	if errors.Is(err, errLongLine) { // too many attributes
		bare := slog.NewRecord(r.Time, r.Level, cut(r.Message, maxMessage), r.PC)
		bare.AddAttrs(slog.Bool("cut", true))
		err = h.base.Handle(ctx, bare)
	}
	if r.Level >= slog.LevelWarn {
		h.lines.hurry()
	}
	return err
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	short := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		short[i] = cutAttr(a, maxText)
	}
	return logHandler{h.Handler.WithAttrs(short), h.base, h.lines}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.base, h.lines}
}

// isLong reports whether a text of the record is to be cut. It costs next to nothing, since nearly none is.
func isLong(r slog.Record) bool {
	long := len(r.Message) > maxMessage
	r.Attrs(func(a slog.Attr) bool {
		long = long || a.Value.Kind() == slog.KindString && len(a.Value.String()) > maxText
		return !long
	})
	return long
}

// cutRecord is the record with each text cut to the limit.
func cutRecord(r slog.Record, limit int) slog.Record {
	short := slog.NewRecord(r.Time, r.Level, cut(r.Message, min(limit, maxMessage)), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		short.AddAttrs(cutAttr(a, limit))
		return true
	})
	return short
}

func cutAttr(a slog.Attr, limit int) slog.Attr {
	if a.Key == "stack" && limit == maxText {
		limit = maxStack
	}
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString, slog.KindAny, slog.KindGroup:
		text := v.String()
		if len(text) > limit {
			return slog.String(a.Key, cut(text, limit))
		}
	}
	return a
}

// cut is at most n bytes of a text, and a mark if that is not all of it.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}
