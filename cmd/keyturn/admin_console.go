package main

import (
	"log/slog"
	"net/http"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/server"
)

// adminConsole makes the console and the admin API of a server.
func adminConsole(place keys.Place, log *slog.Logger) func(*server.Server) http.Handler {
	return func(s *server.Server) http.Handler {
		return console.New(console.Options{
			Admin: func(o admin.Options) *admin.Admin { return admin.New(s.Store(), s.Config(), place, o) },
			Peer:  server.Peer,
			URLs:  func() []string { return s.Config().ConsoleURLs() },
			Log:   log,
		})
	}
}
