package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// traceFlush bounds how long the last traces may take.
const traceFlush = time.Second

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{Use: "serve", Short: "Run the server", Args: cobra.NoArgs}
	addSettings(c.Flags(), config.ScopeServe)
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings(c.Flags(), true)
		if err != nil {
			return err
		}
		if problems := admin.FileProblems(set.Config, set.place); len(problems) > 0 {
			return &config.Error{Problems: problems}
		}
		return a.serve(c.Context(), set, func(running config.Config) (server.Reread, error) {
			return a.reread(c.Flags(), running)
		})
	}
	return c
}

// serve runs until SIGTERM or an interrupt. A second one ends the process at once. At SIGHUP it reads the configuration
// again.
func (a *app) serve(
	ctx context.Context, set settings, again func(config.Config) (server.Reread, error),
) error {
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP) // first: until then it would end the process
	defer signal.Stop(hangUp)
	ctx, stop := untilSignal(ctx)
	defer stop()
	log := a.detach(set.Config, a.onTerminal())
	tracer, stopTracing, err := tracing(ctx, a.getenv, log.Logger)
	if err != nil {
		return err
	}
	defer func() {
		flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceFlush)
		defer cancel()
		if err := stopTracing(flushing); err != nil {
			log.Warn("traces were not sent", "error", err.Error())
		}
	}()
	listeners, err := listen(set.Config)
	if err != nil {
		return err
	}
	makeRoom(set.HashSlots(cpus))
	return server.Serve(ctx, set.Config, set.place, server.Options{
		Log:     log.Logger,
		Level:   log.Level,
		Dropped: log.Dropped,
		Tracer:  tracer,
		Reload:  server.Reload{Asked: hangUp, Read: again},
		CPUs:    cpus,
		Opened:  freeMemory,
	}, listeners)
}

// untilSignal ends the context at the first signal, and then lets signals have their usual effect.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func (a *app) onTerminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
