package main

import (
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// detach protects a command that serves from the readers of standard output and standard error: one that stops reading
// does not block the process, and one that goes away does not end it. The log, also that of libraries, goes to standard
// error.
func (c *streams) detach(conf config.Config, terminal bool) server.Log {
	signal.Ignore(syscall.SIGPIPE) // Go would end the process for these two descriptors
	c.stdout, c.stderr = server.NewLines(c.stdout, true), server.NewLines(c.stderr, terminal)
	log := server.NewLog(conf, c.stderr, terminal)
	slog.SetDefault(log.Logger)
	return log
}

// flush waits a short time until standard output and standard error are written. It keeps the two in order.
func (c *streams) flush() {
	for _, w := range []io.Writer{c.stdout, c.stderr} {
		if lines, ok := w.(*server.Lines); ok {
			lines.Flush()
		}
	}
}
