// Package server is keyturn's HTTP and its OAuth rules: one file for each endpoint, one for each grant.
//
// A token request passes through it so: the table of routes has the endpoint, [Server.post] parses the form once and authenticates the
// client, the endpoint checks what its grants share, the grant makes one storage call, the ring of package keys signs from memory, and
// one place writes every answer. [Admin] holds what people may change from the command line, under the same rules.
package server
