// Package keys keeps the keys of keyturn as a security team sees them.
//
// A signing key is one RSA pair with a kid (RFC 7638 thumbprint) in one state: next (published, does not sign yet),
// current (signs), previous (published, its private half destroyed), retired (gone from the JWKS, kept as a record) or
// revoked. The rows in the database decide; every replica polls them each second into a [Ring], an immutable view
// behind an atomic pointer, which signs, verifies and serves the JWKS from memory. What is due is a pure function of
// rows, configuration and now ([Due]); loops only call it.
//
// At rest everything secret is sealed with AES-256-GCM under the [Master] key, which lies outside the database. What
// decides the state of a signing key is under a MAC as well, so that whoever can write the table cannot revive a
// revoked key.
package keys
