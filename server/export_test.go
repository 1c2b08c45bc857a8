package server

import (
	"context"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// settingsNow are the settings in force.
func (s *Server) settingsNow() config.Config { return *s.config() }

// What tests from outside the package use of its inside.
const (
	Issuer        = issuer
	Secret        = secret
	Password      = password
	PublicClient  = publicClient
	FormMediaType = formMediaType
	MaxBody       = maxBody
	MaxGrants     = maxGrants
)

// Noon is when the clock of a harness starts.
var Noon = noon

// Validate holds an answer to openapi.yaml.
var Validate = validate

// Close writes what has not been written, if that does not take long.
func (l Log) Close() { l.lines.Close() }

// LookForNews reads the news once.
func (s *Server) LookForNews() { s.lookForNews(context.Background()) }

// Follow puts settings in force.
func (s *Server) Follow(c config.Config) { s.follow(c) }

// Row is the grant of a refresh token as the database has it.
func (h *Harness) Row(refreshToken string) storage.GrantState {
	h.T.Helper()
	t, _ := h.Server.ring.Secrets().OpenRefreshToken(refreshToken)
	return Must(h.Server.db.Grants().State(ctx, t.Grant))
}

// Exec changes the database around keyturn.
func (h *Harness) Exec(statement string) {
	h.T.Helper()
	storagetest.MustExec(h.T, storagetest.Raw(h.T, h.Config.Database), statement)
}

// Serving is a replica with its loops.
type Serving = serving

// Helpers of tests from outside the package.
var (
	KIDOf     = kidOf
	ServeWith = serveWith
	CrowdOf   = crowdOf
)
