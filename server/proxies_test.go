package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A reload refuses what a start refuses, and logs warnings again.
func TestReloadRefusesAndWarns(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, HashingConfig(storagetest.SQLiteURL(t)), nil)
	f := &listeners{}
	f.public.set(h.Server.PublicHandler())
	reload := func(change func(*config.Config)) error {
		next := *h.Server.config()
		change(&next)
		return h.reload(f, Options{}, next)
	}
	for _, bad := range []func(*config.Config){
		func(c *config.Config) { c.TrustedProxies = config.List{"0.0.0.0/0"} },
		func(c *config.Config) { c.CORSOrigins = config.List{"https://*.example"} },
		func(c *config.Config) { c.LogFormat = "\xff" },
	} {
		var problems *config.Error
		if err := reload(bad); !errors.As(err, &problems) {
			t.Errorf("%v", err)
		}
	}
	warned := func() int {
		return strings.Count(h.Log.String(), `"level":"WARN","msg":"the configuration should be changed"`)
	}
	for n := range 2 {
		if err := reload(func(c *config.Config) { c.BehindProxy = true }); err != nil || warned() != n+1 {
			t.Errorf("%v, %d warnings", err, warned())
		}
	}
	if err := reload(func(c *config.Config) {}); err != nil || warned() != 2 {
		t.Errorf("%v, %d warnings", err, warned())
	}
}

// A server warns when it starts.
func TestServeWarns(t *testing.T) {
	t.Parallel()
	c := HashingConfig(storagetest.SQLiteURL(t))
	c.BehindProxy = true
	l := Must(Listen(c))
	log := &Buffer{}
	running, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- ServeAt(running, c, Options{Log: slog.New(slog.NewJSONHandler(log, nil))}, l)
	}()
	r := Must(http.Get("http://" + l.Public.Addr().String() + "/livez"))
	r.Body.Close()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "behind_proxy is on, and no proxy is trusted: ") {
		t.Error(log.String())
	}
}
