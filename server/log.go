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

// Log is the log of a server. A slow or missing reader never blocks the server. Unless the writer is a terminal, lines
// reach it after a short delay, several at once.
type Log struct {
	*slog.Logger
	Level *slog.LevelVar
	lines *Lines
}

// NewLog returns the log of a configuration. terminal reports whether w is a terminal. If w is a
// [*Lines], the log uses it; whoever made it closes it.
func NewLog(c config.Config, w io.Writer, terminal bool) Log {
	lines, ok := w.(*Lines)
	if !ok {
		lines = NewLines(w, terminal)
	}
	var at slog.LevelVar
	level, _ := c.Level()
	at.Set(level)
	text := c.LogFormat == "text"
	if c.LogFormat == "" {
		text = terminal
	}
	lines.notice = func(dropped int64) []byte { return droppedNotice(text, dropped) }
	base := newFormat(text, shortLines{lines}, &at)
	return Log{slog.New(logHandler{Handler: base, base: base, lines: lines}), &at, lines}
}

// Dropped returns the number of lines that the writer did not take.
func (l Log) Dropped() int64 { return l.lines.Dropped() }

func newFormat(text bool, w io.Writer, at slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: at}
	if text {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}

// droppedNotice returns the line that replaces dropped lines.
func droppedNotice(text bool, dropped int64) []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now().UTC(), slog.LevelWarn, fmt.Sprintf("%d lines were dropped", dropped), 0)
	r.AddAttrs(slog.String("event", "log.dropped"), slog.Int64("lines", dropped))
	if err := newFormat(text, &b, slog.LevelDebug).Handle(context.Background(), r); err != nil {
		return nil
	}
	return b.Bytes()
}

// Limits in bytes. A line below 4096 bytes is written to a pipe in one piece.
const (
	maxLine    = 4096 // exclusive; includes the line end
	maxMessage = 256
	maxText    = 512  // of an attribute
	maxStack   = 2048 // of the attribute stack
)

var errLongLine = errors.New("log: the line is too long")

// shortLines refuses lines that are too long.
type shortLines struct{ *Lines }

// Write implements [io.Writer]. The error is errLongLine.
func (s shortLines) Write(line []byte) (int, error) {
	if len(line) >= maxLine {
		return 0, errLongLine
	}
	return s.Lines.Write(line)
}

// logHandler writes times in UTC, and warnings without delay. It shortens long lines, because clients choose some of
// the texts in them.
type logHandler struct {
	slog.Handler
	base  slog.Handler // without attributes
	lines *Lines
}

// Handle implements [slog.Handler].
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

// WithAttrs implements [slog.Handler].
func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	short := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		short[i] = cutAttr(a, maxText)
	}
	return logHandler{h.Handler.WithAttrs(short), h.base, h.lines}
}

// WithGroup implements [slog.Handler].
func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.base, h.lines}
}

// isLong reports whether a text of the record is too long. It is cheap, because nearly no record is.
func isLong(r slog.Record) bool {
	long := len(r.Message) > maxMessage
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindString && len(a.Value.String()) > maxText {
			long = true
		}
		return !long
	})
	return long
}

// cutRecord returns the record with each text cut to the limit.
func cutRecord(r slog.Record, limit int) slog.Record {
	short := slog.NewRecord(r.Time, r.Level, cut(r.Message, min(limit, maxMessage)), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		short.AddAttrs(cutAttr(a, limit))
		return true
	})
	return short
}

// cutAttr cuts the text of an attribute to the limit. A stack may be longer.
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

// cut returns at most n bytes of a text, with an ellipsis if it is longer.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}
