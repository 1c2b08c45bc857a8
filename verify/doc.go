// Package verify verifies the access tokens of a keyturn server in a resource server. It checks everything that RFC
// 9068 §4 and RFC 8725 ask for, refuses a revoked key within 15 seconds, and, if the server has status lists, an ended
// login within 17 seconds. No check can be switched off.
//
//	v, err := verify.New(ctx, verify.Config{
//		Issuer:   "https://auth.example.com",
//		Resource: "https://api.example.com",
//	})
//	…
//	http.Handle("/orders", v.Middleware(orders, "orders:read"))
//
// # While the server is away
//
// A Verifier uses the keys and the status lists that it has until they are ten minutes old. From then on it refuses
// tokens with [ErrUnavailable], or goes on, as [Config.Stale] says. Until it has fetched the keys once, it refuses
// every token with [ErrUnavailable].
//
// # What it does not see
//
// A token is forged if somebody has stolen a signing key. Only the server can tell: let it introspect a sample of the
// accepted tokens with [Config.Sample].
package verify
