package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// traceFlush bounds how long a stopping server sends its last traces.
const traceFlush = time.Second

// serveCommand is keyturn serve.
type serveCommand struct{ *app }

func (s serveCommand) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeServe)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, err := s.readSettings(cmd.Flags(), true)
		if err != nil {
			return err
		}
		if problems := admin.FileProblems(set.Config, set.place); len(problems) > 0 {
			return set.wrong(problems)
		}
		return s.run(cmd.Context(), set, func(running config.Config) (server.Reread, error) {
			return s.reread(cmd.Flags(), running)
		})
	}
	return cmd
}

// run serves until SIGTERM or an interrupt. A second signal ends the process at once. SIGHUP reads the configuration
// again.
func (s serveCommand) run(
	ctx context.Context, set settings, reread func(config.Config) (server.Reread, error),
) error {
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP) // first: without it the signal ends the process
	defer signal.Stop(hangUp)
	ctx, stop := untilSignal(ctx)
	defer stop()
	log := s.detach(set.Config, s.onTerminal())
	tracer, stopTracing, err := tracing(ctx, s.getenv, log.Logger)
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
		return set.wrong([]error{err})
	}
	var made []string
	if set.place.Database.File() != "" {
		made, _ = admin.Missing(ctx, set.place) // opening reports the error
	}
	makeRoom(set.HashSlots(cpus))
	return server.Serve(ctx, set.Config, set.place, server.Options{
		Log:     log.Logger,
		Level:   log.Level,
		Dropped: log.Dropped,
		Tracer:  tracer,
		Reload:  server.Reload{Asked: hangUp, Read: reread},
		CPUs:    cpus,
		Console: adminConsole(set.place, log.Logger),
		Opened: func() {
			freeMemory()
			for _, what := range made {
				log.Warn("created "+what, "advice", "back up the database and the master key, apart from each other")
			}
		},
	}, listeners)
}

// untilSignal ends the context at the first signal. After it signals have their usual effect.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
