package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/server"
)

// traceFlush bounds how long the last traces may take.
const traceFlush = time.Second

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{Use: "serve", Short: "Run the server", Args: cobra.NoArgs}
	addSettings(c.Flags(), scopeAll)
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := a.config(c.Flags(), true)
		if err != nil {
			return err
		}
		return a.serve(c.Context(), config, func() (server.Config, error) { return a.config(c.Flags(), true) })
	}
	return c
}

// serve runs until SIGTERM or an interrupt. A second one ends the process at once. At SIGHUP it reads the configuration
// again.
func (a *app) serve(ctx context.Context, config server.Config, again func() (server.Config, error)) error {
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP) // first: until then it would end the process
	defer signal.Stop(hangUp)
	ctx, stop := untilSignal(ctx)
	defer stop()
	log := a.detach(config, a.onTerminal())
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
	listeners, err := listen(config)
	if err != nil {
		return err
	}
	makeRoom(config.HashSlots(cpus))
	return server.Serve(ctx, config, server.Options{
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
