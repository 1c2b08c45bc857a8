package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// FileProblems lists what is wrong with the files and folders that serve needs.
func FileProblems(c config.Config, p keys.Place) (problems []error) {
	_, certificate := c.Certificate()
	for _, err := range append(p.Database.FileProblems(), certificate, p.CheckMasterKey(), p.CheckFolders()) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// databaseTimeout bounds the look into the database.
const databaseTimeout = 10 * time.Second

// ServeProblems lists what would stop serve besides the settings themselves: files, folders, and a database that it
// must not serve. A database that does not answer is no problem. It changes nothing.
func ServeProblems(ctx context.Context, c config.Config, p keys.Place) []error {
	problems := FileProblems(c, p)
	if len(problems) > 0 {
		return problems
	}
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	err := databaseProblem(ctx, c, p)
	if err != nil && !errors.Is(err, storage.ErrUnavailable) && ctx.Err() == nil {
		problems = append(problems, err)
	}
	return problems
}

// databaseProblem returns why serve must not use the database. A server makes what is missing.
func databaseProblem(ctx context.Context, c config.Config, p keys.Place) error {
	begun, err := p.Begun(ctx)
	switch {
	case errors.Is(err, storage.ErrEmpty), errors.Is(err, storage.ErrNoDatabase):
		return nil
	case errors.Is(err, storage.ErrBehind) && (c.Migrate || p.Database.Kind() == storage.Postgres):
		return nil // it migrates, or waits until somebody else does
	case err != nil || !begun:
		return err
	}
	store, err := keys.OpenStore(ctx, p, keys.Config(c.Keys()), keys.StoreOptions{
		Keys: keys.Options{Log: slog.New(slog.DiscardHandler), Tolerant: true},
	})
	if err != nil {
		return err
	}
	defer store.Close()
	return errors.Join(store.CheckPurpose(ctx, false), store.Ring.Anchor(p.AnchorFile).Check(ctx))
}

// PortProblems lists the listeners that cannot be opened. A keyturn that runs with this configuration is no problem.
func PortProblems(ctx context.Context, c config.Config) (problems []error) {
	for _, l := range []struct{ key, address string }{{"listen", c.Listen}, {"admin_listen", c.AdminListen}} {
		if _, _, err := net.SplitHostPort(l.address); err != nil {
			continue // Config.Problems reports it
		}
		port, err := net.Listen("tcp", l.address)
		if err == nil {
			defer port.Close() // after the loop: the two must not be the same
			continue
		}
		if !answersAsKeyturn(ctx, l.address) {
			problems = append(problems, fmt.Errorf("%s: %w: choose another port, or stop the program that uses it",
				l.key, err))
		}
	}
	return problems
}
