// Package server answers the HTTP requests of an OAuth 2.0 token server. The public listener has /token, /introspect,
// /revoke, the JWKS, the metadata, the contract and health. The admin listener has metrics, and health with reasons.
// Each endpoint and each grant has its own file.
//
// [Server] is one replica. Its parts are types that share a core: the gateway, client authentication, access tokens,
// the two grants, health and the clean-up.
//
// A POST request takes these steps. The router finds the endpoint. post parses the form once into a typed struct.
// Server.answer authenticates the client and runs the endpoint, which returns a value or an error. post then writes
// one response. A grant makes its changes in one storage call, and keys.Ring signs in memory.
//
// The client may come from a cache if the statement of the endpoint confirms that it is unchanged. Otherwise the server
// reads the client and runs the endpoint again. Events and counters wait until the last run.
//
// A running server may get new settings (reload.go). Read a setting where it is used, and do not store it.
package server
