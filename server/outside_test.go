package server_test

import (
	"context"

	"github.com/keyturn/keyturn/server"
)

// The names under which tests from outside the package know its harness.
const (
	issuer        = server.Issuer
	secret        = server.Secret
	password      = server.Password
	publicClient  = server.PublicClient
	formMediaType = server.FormMediaType
	maxBody       = server.MaxBody
	maxGrants     = server.MaxGrants
)

var (
	ctx      = context.Background()
	noon     = server.Noon
	validate = server.Validate
)
