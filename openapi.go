// Package keyturn embeds the contract of the public listener.
package keyturn

import _ "embed"

// OpenAPI is the text of openapi.yaml. It describes every path and every response of the public listener.
//
//go:embed openapi.yaml
var OpenAPI []byte
