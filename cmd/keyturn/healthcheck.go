package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/config"
)

// healthTimeout bounds a health check: orchestrators wait only a few seconds for it.
const healthTimeout = 3 * time.Second

func healthcheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Check that the server of this configuration is ready: exit code 0 if it is",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeServe)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, err := a.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		address, err := localAddress(set.AdminListen)
		if err != nil {
			return err
		}
		if err := checkReady(cmd.Context(), address); err != nil {
			return err
		}
		a.say("ready")
		return a.print(map[string]bool{"ready": true}, func() {})
	}
	return cmd
}

// localAddress returns the address of a listener for clients on this host: loopback if it listens on all addresses.
func localAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", usageError{fmt.Errorf("admin_listen: %q is not HOST:PORT", listen)}
	}
	switch ip := net.ParseIP(host); {
	case host == "" || ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		host = "127.0.0.1" // not localhost: an image may lack /etc/hosts
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// checkReady asks a server whether it is ready.
func checkReady(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	direct := &http.Client{Transport: &http.Transport{}} // no proxy of the environment
	answer, err := direct.Do(r)
	if err != nil {
		return fmt.Errorf("healthcheck: the server does not answer: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New("healthcheck: the server is not ready: its log says why")
	}
	return nil
}
