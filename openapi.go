// Package keyturn embeds the contract of the public listener.
package keyturn

import _ "embed"

// OpenAPI is openapi.yaml: every path of the public listener and every response that it gives.
//
//go:embed openapi.yaml
var OpenAPI []byte
