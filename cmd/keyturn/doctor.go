package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Look for what is wrong or unsafe, and say what to do", Args: cobra.NoArgs}
	addSettings(c.Flags(), config.ScopeServe)
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings(c.Flags(), false)
		var bad *config.Error
		var findings []admin.Finding
		switch {
		case errors.As(err, &bad): // nothing else can be looked at
			for _, problem := range bad.Problems {
				findings = append(
					findings,
					admin.Finding{
						Check:  "configuration",
						Status: admin.FindingFailed,
						Found:  problem.Error(),
						Advice: "mend this first: no command works without",
					},
				)
			}
		case err != nil:
			return err
		default:
			files, err := raiseFiles()
			if err != nil {
				return err
			}
			o := admin.Options{Actor: a.actor(), Given: a.given}
			findings = admin.Doctor(c.Context(), a.patient(set, c.Flags(), files), o)
		}
		if err := a.print(findings, func() { a.printFindings(findings) }); err != nil {
			return err
		}
		failed := 0
		for _, f := range findings {
			if f.Status == admin.FindingFailed {
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

// patient is what doctor examines.
func (a *app) patient(set settings, flags *pflag.FlagSet, files int) admin.Patient {
	_, problems := check(set.Config, true)
	return admin.Patient{
		Config:   set.Config,
		Place:    set.place,
		Problems: problems,
		Secrets:  a.secretFiles(set, flags),
		MaxFiles: files,
	}
}

// secretFiles are the files that settings with a secret come from.
func (a *app) secretFiles(set settings, flags *pflag.FlagSet) (files []string) {
	if !set.place.Database.HasPassword() {
		return nil
	}
	if file := a.getenv("KEYTURN_DATABASE_FILE"); file != "" {
		return []string{file}
	}
	if path := a.configPath(flags); strings.HasPrefix(a.origins["database"], path+":") {
		return []string{path}
	}
	return nil
}

func (a *app) printFindings(findings []admin.Finding) {
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
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the server of this configuration whether it is ready: exit code 0 if so",
		Args:  cobra.NoArgs,
	}
	addSettings(c.Flags(), config.ScopeServe)
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		return a.healthcheck(c.Context(), set.AdminListen)
	}
	return c
}

// healthcheck asks where the server listens; over loopback, if that is everywhere.
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
	direct := &http.Client{Transport: &http.Transport{}} // whatever proxies the environment names
	answer, err := direct.Do(r)
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
