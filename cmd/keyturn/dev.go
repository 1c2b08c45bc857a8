package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/selfcheck"
	"github.com/keyturn/keyturn/server"
)

const devFolder = ".keyturn"

// devCommand is keyturn dev.
type devCommand struct{ *app }

// devFlags are the flags of keyturn dev.
type devFlags struct {
	public, admin string
	remote        bool
	logLevel      string
}

func (d devCommand) root() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try keyturn: run a server with an embedded database, demo clients and a demo user",
		Args:  cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.public, "listen", "127.0.0.1:8080", "address of the public listener")
	flags.StringVar(&f.admin, "admin-listen", "127.0.0.1:8081", "address of the admin listener")
	flags.BoolVar(&f.remote, "allow-remote", false,
		"allow addresses that others can reach, as in a container: everybody who can connect can log in")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error; info logs each request")
	d.completeWord(cmd, "log-level", "debug", "info", "warn", "error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, address := range []string{f.public, f.admin} {
			if _, _, err := net.SplitHostPort(address); err != nil {
				return usageError{fmt.Errorf("dev: %q is not an address such as 127.0.0.1:8080", address)}
			}
			at, err := netip.ParseAddrPort(strings.Replace(address, "localhost:", "127.0.0.1:", 1))
			if (err != nil || !at.Addr().IsLoopback()) && !f.remote {
				return usageError{fmt.Errorf("dev: %q is not a loopback address such as 127.0.0.1:8080: its secrets "+
					"are for everybody to see; --allow-remote allows it, for instance in a container", address)}
			}
		}
		if _, err := (config.Config{LogLevel: f.logLevel}).Level(); err != nil {
			return usageError{err}
		}
		return d.run(cmd.Context(), f)
	}
	return cmd
}

// run opens the ports and the embedded database, tests the server, prints what a first request needs, and serves.
func (d devCommand) run(ctx context.Context, f devFlags) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if err := os.Mkdir(devFolder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(devFolder, 0o700); err != nil {
		return err
	}
	listeners, err := listen(config.Config{Listen: f.public, AdminListen: f.admin})
	if err != nil {
		return fmt.Errorf("%w (--listen and --admin-listen choose other ports)", err)
	}
	defer listeners.Public.Close()
	defer listeners.Admin.Close()
	set, err := devSettings(listeners, f)
	if err != nil {
		return err
	}
	log := d.detach(set.Config, true)
	level, _ := set.Level()                   // readSettings has checked it
	log.Level.Set(max(level, slog.LevelWarn)) // until the self-test is over
	makeRoom(set.HashSlots(cpus))
	s, err := server.Open(ctx, set.Config, set.place, server.Options{
		Dev:     true,
		Log:     log.Logger,
		Level:   log.Level,
		Dropped: log.Dropped,
		CPUs:    cpus,
		Console: adminConsole(set.place, log.Logger),
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
	return d.serve(ctx, s, listeners, credentials, func() { log.Level.Set(level) })
}

// devSettings is the default configuration on the open ports. It ignores the environment.
func devSettings(l server.Listeners, f devFlags) (settings, error) {
	flags := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	addSettings(flags, config.ScopeServe)
	host, _, err := net.SplitHostPort(f.public)
	if err != nil {
		return settings{}, err
	}
	_, port, err := net.SplitHostPort(l.Public.Addr().String())
	if err != nil {
		return settings{}, err
	}
	issuer, err := localAddress(net.JoinHostPort(host, port))
	if err != nil {
		return settings{}, err
	}
	for name, value := range map[string]string{
		"issuer":       "http://" + issuer,
		"behind-proxy": strconv.FormatBool(f.remote),
		"listen":       l.Public.Addr().String(),
		"admin-listen": l.Admin.Addr().String(),
		"database":     devDatabase,
		"log-level":    f.logLevel,
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

func (d devCommand) serve(
	ctx context.Context, s *server.Server, l server.Listeners, credentials demo, tested func(),
) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	tokens, err := selfcheck.Run(ctx, credentials.account())
	if err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	credentials.AccessToken, credentials.RefreshToken = tokens.AccessToken, tokens.RefreshToken
	d.say("\n*** DEVELOPMENT SERVER: everybody who can read this screen knows its secrets. Never use it for real " +
		"users. ***\n")
	d.flush()
	if err := d.print(credentials, func() { d.printCredentials(credentials, l.Admin.Addr()) }); err != nil {
		return err
	}
	d.flush()
	tested()
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
		{"console", orDash(c.Console)},
		{"database", "--database " + devDatabase},
		{"audience", c.Audience},
		{"client", c.ClientID},
		{"client secret", c.ClientSecret},
		{"secret of app", c.Clients[demoApp]},
		{"secret of api", c.Clients[demoService]},
		{"user", c.Username},
		{"password", c.Password},
		{"access token", c.AccessToken},
	})
	fmt.Fprintf(d.stdout, `
Get a token, and refresh it:

  curl -u %[1]s:%[2]s -d grant_type=password -d username=%[3]s -d password=%[4]s %[5]s/token
  curl -u %[1]s:%[2]s -d grant_type=refresh_token -d refresh_token=%[6]s %[5]s/token

Next: ask about the token as the API does, print code that verifies it, and look at the keys:

  curl -u %[7]s:%[8]s -d token=%[9]s %[5]s/introspect
  keyturn example jose --issuer %[5]s --audience %[10]s
  keyturn keys timeline --database %[11]s

The link to the console works once, for 15 minutes. This makes another:

  keyturn admin link %[12]s --database %[11]s

`, c.ClientID, c.ClientSecret, c.Username, c.Password, c.Issuer, c.RefreshToken, demoService, c.Clients[demoService],
		c.AccessToken, c.Audience, devDatabase, demoAdmin)
}
