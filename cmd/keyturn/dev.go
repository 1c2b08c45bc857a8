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

// devCommand is keyturn dev.
type devCommand struct{ *app }

func (d devCommand) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try keyturn: run a server with an embedded database, a demo client and a demo user",
		Args:  cobra.NoArgs,
	}
	public := cmd.Flags().String("listen", "127.0.0.1:8080", "loopback address of the public listener")
	admin := cmd.Flags().String("admin-listen", "127.0.0.1:8081", "loopback address of the admin listener")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, address := range []string{*public, *admin} {
			if at, err := netip.ParseAddrPort(address); err != nil || !at.Addr().IsLoopback() {
				return usageError{fmt.Errorf("dev: %q is not a loopback address such as 127.0.0.1:8080", address)}
			}
		}
		return d.run(cmd.Context(), *public, *admin)
	}
	return cmd
}

// run opens the ports and the embedded database, tests the server, prints what a first request needs, and serves.
func (d devCommand) run(ctx context.Context, public, admin string) error {
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
	set, err := devSettings(listeners)
	if err != nil {
		return err
	}
	log := d.detach(set.Config, true)
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
	return d.serve(ctx, s, listeners, credentials)
}

// devSettings is the default configuration on the open ports. It ignores the environment.
func devSettings(l server.Listeners) (settings, error) {
	flags := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	addSettings(flags, config.ScopeServe)
	for name, value := range map[string]string{
		"issuer":       "http://" + l.Public.Addr().String(),
		"listen":       l.Public.Addr().String(),
		"admin-listen": l.Admin.Addr().String(),
		"database":     devDatabase,
		"log-level":    "warn",
		"stop-delay":   "0s",
	} {
		if err := flags.Set(name, value); err != nil {
			return settings{}, err
		}
	}
	isolated := sources{getenv: func(string) string { return "" }}
	return isolated.readSettings(flags, true)
}

var devDatabase = "sqlite:" + filepath.Join(devFolder, "keyturn.db")

func (d devCommand) serve(ctx context.Context, s *server.Server, l server.Listeners, credentials demo) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	token, err := selfcheck.Run(ctx, credentials.account())
	if err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	credentials.AccessToken = token
	d.say("\n*** DEVELOPMENT SERVER: everybody who can read this screen knows its secrets. Never use it for real " +
		"users. ***\n")
	d.flush()
	if err := d.print(credentials, func() { d.printCredentials(credentials, l.Admin.Addr()) }); err != nil {
		return err
	}
	d.flush()
	d.say("Self-test passed: password, verify, introspect, refresh, reuse refused, revoke. Serving until Ctrl-C.")
	return <-served
}

func (d devCommand) printCredentials(c demo, admin net.Addr) {
	d.pairs([][2]string{
		{"issuer", c.Issuer},
		{"token endpoint", c.Issuer + "/token"},
		{"JWKS", c.Issuer + "/.well-known/jwks.json"},
		{"metadata", c.Issuer + "/.well-known/oauth-authorization-server"},
		{"OpenAPI", c.Issuer + "/openapi.yaml"},
		{"metrics", "http://" + admin.String() + "/metrics"},
		{"database", "--database " + devDatabase},
		{"client", c.ClientID},
		{"client secret", c.ClientSecret},
		{"user", c.Username},
		{"password", c.Password},
		{"access token", c.AccessToken},
	})
	fmt.Fprintf(
		d.stdout,
		"\nGet a token:\n\n  curl -u %s:%s -d grant_type=password -d username=%s -d password=%s %s/token\n\n",
		c.ClientID,
		c.ClientSecret,
		c.Username,
		c.Password,
		c.Issuer,
	)
}
