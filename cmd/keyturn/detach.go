package main

import (
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// detach is for commands that serve: from now on, no reader of standard output or standard error can hold this process
// up by not reading, or end it by going away. The log goes to standard error. Whatever a library logs goes there, too.
func (a *app) detach(c config.Config, terminal bool) server.Log {
	signal.Ignore(syscall.SIGPIPE) // which Go sends for these two descriptors
	a.stdout, a.stderr = server.NewLines(a.stdout, true), server.NewLines(a.stderr, terminal)
	log := server.NewLog(c, a.stderr, terminal)
	slog.SetDefault(log.Logger)
	return log
}

// flush waits for the readers of standard output and standard error, but not for long. It keeps the two in order.
func (a *app) flush() {
	for _, w := range []io.Writer{a.stdout, a.stderr} {
		if lines, ok := w.(*server.Lines); ok {
			lines.Flush()
		}
	}
}
