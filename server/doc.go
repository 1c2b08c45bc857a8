// Package server is keyturn's HTTP and its OAuth rules: one file for each endpoint, one for each grant.
//
// A token request passes through it so: the table of routes has the endpoint, [Server.post] parses the form once and
// authenticates the client, the endpoint checks what its grants share, the grant makes one storage call, the ring of
// package keys signs from memory, and one place writes every answer. A client is remembered for a second, and what is
// done for it is a statement that asks whether it is still the same; anything else reads it and begins again
// (request.go).
//
// Settings are read where they are used, since a running server may be given others (reload.go). [Admin] holds what
// people may change from the command line, under the same rules; [Doctor] looks at everything and changes nothing.
package server
