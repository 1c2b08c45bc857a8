package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/selfcheck"
	"github.com/keyturn/keyturn/server"
)

const devFolder = ".keyturn"

func (a *app) devCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dev",
		Short: "Try keyturn: an embedded server with a demo client and user",
		Args:  cobra.NoArgs,
	}
	public := c.Flags().String("listen", "127.0.0.1:8080", "loopback address of the public listener")
	admin := c.Flags().String("admin-listen", "127.0.0.1:8081", "loopback address of the admin listener")
	c.RunE = func(c *cobra.Command, _ []string) error {
		for _, address := range []string{*public, *admin} {
			if at, err := netip.ParseAddrPort(address); err != nil || !at.Addr().IsLoopback() {
				return usageError{fmt.Errorf("dev listens on loopback addresses only, such as 127.0.0.1:8080, not on %q", address)}
			}
		}
		return a.dev(c.Context(), *public, *admin)
	}
	return c
}

// dev opens the ports, makes or opens the embedded database, tests itself, prints what a first request needs, and
// serves.
func (a *app) dev(ctx context.Context, public, admin string) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if err := os.Mkdir(devFolder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(devFolder, 0o700); err != nil {
		return err
	}
	listeners, err := listen(config.Config{Listen: public, AdminListen: admin})
	if err != nil {
		return fmt.Errorf("%w (--listen and --admin-listen choose other ports)", err)
	}
	defer listeners.Public.Close()
	defer listeners.Admin.Close()
	set, err := a.devSettings(listeners)
	if err != nil {
		return err
	}
	log := a.detach(set.Config, true)
	makeRoom(set.HashSlots(cpus))
	s, err := server.Open(ctx, set.Config, set.place, server.Options{
		Dev:     true,
		Log:     log.Logger,
		Level:   log.Level,
		Dropped: log.Dropped,
		CPUs:    cpus,
		Opened:  freeMemory,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	credentials, err := provision(ctx, s, set)
	if err != nil {
		return err
	}
	return a.serveDev(ctx, s, listeners, credentials)
}

// devSettings are the default configuration on the ports that are open, whatever the environment says.
func (a *app) devSettings(l server.Listeners) (settings, error) {
	isolated := &app{getenv: func(string) string { return "" }, stderr: a.stderr}
	flags := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	addSettings(flags, config.ScopeServe)
	for name, value := range map[string]string{
		"issuer":       "http://" + l.Public.Addr().String(),
		"listen":       l.Public.Addr().String(),
		"admin-listen": l.Admin.Addr().String(),
		"database":     "sqlite:" + filepath.Join(devFolder, "keyturn.db"), "log-level": "warn", "stop-delay": "0s",
	} {
		if err := flags.Set(name, value); err != nil {
			return settings{}, err
		}
	}
	return isolated.settings(flags, true)
}

func (a *app) serveDev(ctx context.Context, s *server.Server, l server.Listeners, d demo) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	token, err := selfcheck.Run(ctx, d.account())
	if err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	d.AccessToken = token
	a.say(
		"\n*** DEVELOPMENT SERVER: its secrets are known to everybody who reads this screen. Never use it for real " +
			"users. ***\n",
	)
	a.flush()
	if err := a.print(d, func() { a.printDev(d, l.Admin.Addr()) }); err != nil {
		return err
	}
	a.flush()
	a.say("Self-test passed: password, verify, introspect, refresh, reuse refused, revoke. Serving until Ctrl-C.")
	return <-served
}

func (a *app) printDev(d demo, admin net.Addr) {
	a.pairs(
		[2]string{"issuer", d.Issuer},
		[2]string{"token endpoint", d.Issuer + "/token"},
		[2]string{"JWKS", d.Issuer + "/.well-known/jwks.json"},
		[2]string{
			"metadata",
			d.Issuer + "/.well-known/oauth-authorization-server",
		},
		[2]string{"OpenAPI", d.Issuer + "/openapi.yaml"},
		[2]string{
			"metrics",
			"http://" + admin.String() + "/metrics",
		},
		[2]string{"database", "--database sqlite:" + filepath.Join(devFolder, "keyturn.db")},
		[2]string{
			"client",
			d.ClientID,
		},
		[2]string{"client secret", d.ClientSecret},
		[2]string{"user", d.Username},
		[2]string{"password", d.Password},
		[2]string{"access token", d.AccessToken},
	)
	fmt.Fprintf(
		a.stdout,
		"\nGet a token:\n\n  curl -u %s:%s -d grant_type=password -d username=%s -d password=%s %s/token\n\n",
		d.ClientID,
		d.ClientSecret,
		d.Username,
		d.Password,
		d.Issuer,
	)
}
