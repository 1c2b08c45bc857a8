package server

import "github.com/keyturn/keyturn/config"

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
