// Package keys manages the signing keys and the symmetric keys of keyturn.
//
// A signing key is one RSA pair with a kid (RFC 7638 thumbprint) in one state:
//
//   - next: published, does not sign yet
//   - current: signs
//   - previous: published, its private half is destroyed
//   - retired: not in the JWKS, kept as a record
//   - revoked: leaked, its tokens are refused
//
// The rows in the database are the truth. Every replica reads them each second into its [Ring], which signs, verifies
// and serves the JWKS from memory. [LifeCycle] changes the keys. The steps that are due are a pure function of rows,
// configuration and time ([Due]). [Anchor] is what a host remembers of its database.
//
// All secrets in the database are sealed with AES-256-GCM under the [Master] key, which is kept outside the database.
// The state of a signing key is also under a MAC, so that somebody who can write the tables cannot revive a revoked
// key.
package keys
