package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/server"
)

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Look for what is wrong or unsafe, and say what to do", Args: cobra.NoArgs}
	addSettings(c.Flags(), scopeAll)
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := a.config(c.Flags(), false)
		if err != nil {
			return err
		}
		findings := server.Doctor(c.Context(), config, server.AdminOptions{Actor: a.actor(), Given: a.given})
		if err := a.print(findings, func() { a.printFindings(findings) }); err != nil {
			return err
		}
		failed := 0
		for _, f := range findings {
			if f.Status == server.FindingFailed {
				failed++
			}
		}
		if failed > 0 {
			return fmt.Errorf("doctor: %d checks failed", failed)
		}
		return nil
	}
	return c
}

func (a *app) printFindings(findings []server.Finding) {
	for _, f := range findings {
		fmt.Fprintf(a.stdout, "%-8s %s: %s\n", f.Status, f.Check, f.Found)
		if f.Advice != "" {
			fmt.Fprintf(a.stdout, "         -> %s\n", f.Advice)
		}
	}
}

// healthTimeout bounds a health check: whoever runs it gives it a few seconds.
const healthTimeout = 3 * time.Second

func (a *app) healthcheckCommand() *cobra.Command {
	c := &cobra.Command{Use: "healthcheck", Short: "Ask the server of this configuration whether it is ready: exit code 0 if so", Args: cobra.NoArgs}
	addSettings(c.Flags(), scopeAll)
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := a.config(c.Flags(), false)
		if err != nil {
			return err
		}
		return a.healthcheck(c.Context(), config.AdminListen)
	}
	return c
}

// healthcheck asks over loopback, whatever the listener is bound to.
func (a *app) healthcheck(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return usageError{fmt.Errorf("admin_listen: %q is not HOST:PORT", listen)}
	}
	switch ip := net.ParseIP(host); {
	case host == "" || ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		host = "127.0.0.1" // not localhost: an image need not have an /etc/hosts
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("healthcheck: the server does not answer: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New("healthcheck: the server is not ready: its log says why")
	}
	a.say("ready")
	return nil
}
