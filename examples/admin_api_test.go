//go:build interop

package examples_test

import (
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/console/consoletest"
)

// generator makes Go clients of the admin API.
const adminGenerator = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.0"

// Scripts drive the admin API: curl over the Unix socket and with a client certificate, and a Go program with types
// that were generated from admin.yaml.
func TestAdminAPI(t *testing.T) {
	t.Parallel()
	for name, postgres := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, "admin")
			ca := consoletest.NewAuthority(dir)
			cert, key := ca.ServerFiles()
			socket := filepath.Join(dir, "admin.sock")
			k := newKeyturn(t, "https://api.example.com", postgres, "--admin-socket="+socket,
				"--admin-tls-cert-file="+cert,
				"--admin-tls-key-file="+key, "--admin-client-ca-file="+ca.File)
			k.login("app")
			clientCert, clientKey := ca.ClientFiles(pkix.Name{CommonName: "robot", Organization: []string{"Example"}})
			k.do("admin", "create", "robot", "--role=operator", "--certificate-subject=CN=robot, O=Example")
			k.curlOverSocket(socket)
			base := "https://localhost" + k.admin[strings.LastIndexByte(k.admin, ':'):]
			k.curlWithCertificate(base, ca.File, clientCert, clientKey)
			k.generatedClient(base, ca.File, clientCert, clientKey)
		})
	}
}

// shell runs a script, which must succeed, and requires parts of what it prints.
func (k *keyturn) shell(script string, parts ...string) {
	k.t.Helper()
	out, ok := run(k.t, k.dir, script)
	for _, part := range parts {
		ok = ok && strings.Contains(out, part)
	}
	if !ok {
		k.t.Errorf("%s\nprints %s\nwant %q", script, out, parts)
	}
}

func (k *keyturn) curlOverSocket(socket string) {
	k.t.Helper()
	api := "api() { curl -sS --unix-socket " + socket + ` -H 'Content-Type: application/json' "$@"; }
v1=http://localhost/api/v1
`
	k.shell(api+`api -f $v1/keys | jq -r '.items[].state'`, "current", "next")
	k.shell(api+`tag=$(api -f -D - -o client.json $v1/clients/dated | tr -d '\r' | sed -n 's/^Etag: //p')
api -f -H "If-Match: $tag" -d '{"reason": "a script"}' $v1/clients/dated/disable | jq -r .disabled_at
api -H "If-Match: $tag" -d '{"reason": "too late"}' $v1/clients/dated/enable >late.json
jq -r '.status, .changed_by.actor, .changed_by.reason' late.json
`, "412", "os:", "a script")
	k.shell(api + `api -f -d '{"dry_run": true, "force": true}' $v1/keys/rotate | jq -r '.lives | length'`)
	k.shell(api + `api -f $v1/audit/verify | jq .records`)
	k.shell(api + `api -f $v1/audit/export | tail -1 | jq -r .type`)
}

func (k *keyturn) curlWithCertificate(base, authority, cert, key string) {
	k.t.Helper()
	curl := "curl -sS --cacert " + authority
	k.shell(curl+" -f --cert "+cert+" --key "+key+" "+base+"/api/v1/users/alice | jq -r .username", "alice")
	k.shell(curl+" -o nobody.json -w '%{http_code}' "+base+"/api/v1/users/alice", "401")
	k.shell(curl+" -f "+base+"/metrics | head -1", "#")
}

// generatedClient makes a module with a client of admin.yaml, and runs a program on it.
func (k *keyturn) generatedClient(base, authority, cert, key string) {
	k.t.Helper()
	dir := folder(k.t, "generated")
	contract, err := filepath.Abs("../console/admin.yaml")
	if err != nil {
		k.t.Fatal(err)
	}
	program, err := os.ReadFile("testdata/admin/main.go")
	if err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), program, 0o644); err != nil {
		k.t.Fatal(err)
	}
	out, ok := run(k.t, dir, `export GOFLAGS=-mod=mod
mkdir client
(cd /tmp && go run `+adminGenerator+` -generate types,client -package client `+contract+`) > client/client.go
go mod init example
go mod tidy
go run . `+strings.Join([]string{base, authority, cert, key}, " "))
	for _, part := range []string{"roles [admin boss]", "changed by admin:robot", "ended 1",
		"user.revoke-grants admin:robot moved on", "user.update admin:robot a new duty",
		"refused urn:keyturn:problem:role"} {
		ok = ok && strings.Contains(out, part)
	}
	if !ok {
		k.t.Error(out)
	}
}
