package console

import _ "embed"

// contract is the OpenAPI document of the admin API.
//
//go:embed admin.yaml
var contract []byte

// fileCalls are the requests for files that never change.
type fileCalls struct{ *call }

func (k fileCalls) openAPI() error {
	k.w.Header().Set("Content-Type", "application/yaml")
	k.w.Write(contract)
	k.note("ok")
	return nil
}
