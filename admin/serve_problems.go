package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// FileProblems lists what is wrong with the files, folders and libraries that serve needs.
func FileProblems(c config.Config, p keys.Place) (problems []error) {
	_, certificate := c.Certificate()
	_, adminCertificate := c.AdminCertificate()
	_, authorities := c.AdminClientCAs()
	_, signer := keys.NewCryptoModule(c.Signer, slog.New(slog.DiscardHandler))
	found := append(p.Database.FileProblems(), certificate, adminCertificate, authorities, signer, p.CheckMasterKey())
	for _, err := range append(found, p.FolderProblems()...) {
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
		return problems // opening would fail, and leave files behind
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
	case errors.Is(err, storage.ErrBehind):
		return nil // serve migrates, or waits until somebody else does
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
	free, public := tryPort("listen", c.Listen)
	defer free()
	freeToo, admin := tryPort("admin_listen", c.AdminListen) // the two must not be the same
	defer freeToo()
	ours := public != nil && (servesIssuer(ctx, c, c.Issuer) ||
		admin != nil && servesIssuer(ctx, c, "") && answersAsKeyturn(ctx, c.AdminListen))
	if public != nil && !ours {
		problems = append(problems, public)
	}
	if admin != nil && !((public == nil || ours) && answersAsKeyturn(ctx, c.AdminListen)) {
		problems = append(problems, admin)
	}
	return problems
}

// tryPort opens a port, until free is called. Config.Problems reports an address that is none.
func tryPort(key, address string) (free func(), taken error) {
	if _, port, err := net.SplitHostPort(address); err != nil || !isPort(port) {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return func() {}, fmt.Errorf("%s: %w: choose another port, or stop the program that uses it", key, err)
	}
	return func() { l.Close() }, nil
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}
