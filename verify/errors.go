package verify

import "errors"

// ErrUnavailable means that a token cannot be checked now: the keys or the status list are missing or too old. Answer
// 503; the token may be valid.
var ErrUnavailable = errors.New("verify: the token cannot be checked now")

// ErrInvalid means that a token must be refused (RFC 6750 §3.1, invalid_token). The error is an [*InvalidError].
var ErrInvalid = errors.New("verify: the token is not valid")

// InvalidError says why a token is refused. Its text never contains the token.
type InvalidError struct {
	Reason Reason // for logs and metrics: a client must not learn it
}

// Error implements error.
func (e *InvalidError) Error() string { return ErrInvalid.Error() + ": " + string(e.Reason) }

// Is reports whether target is [ErrInvalid].
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// Reason is why a token is refused. The reasons are few and fixed, so that they can be labels of a metric.
type Reason string

// The reasons.
const (
	Malformed   Reason = "malformed"         // no compact JWS (RFC 7515 §7.1), or too large
	Header      Reason = "header"            // a typ that is not at+jwt, an alg that is not RS256, or crit
	UnknownKey  Reason = "unknown key"       // no key of the server has this kid
	Signature   Reason = "signature"         // not made by that key
	Claims      Reason = "claims"            // a required claim is missing or has another type (RFC 9068 §2.2)
	Issuer      Reason = "issuer"            // another issuer
	Audience    Reason = "audience"          // for another resource
	Expired     Reason = "expired"           // exp has passed
	NotYetValid Reason = "not yet valid"     // iat or nbf is in the future
	Ended       Reason = "ended"             // the login has ended, by its status list
	Status      Reason = "status"            // its status cannot be read: no list of this issuer, or no such place
	Unavailable Reason = "unavailable"       // only for Counters: ErrUnavailable
	Scope       Reason = "scope"             // only for Counters: the middleware wants more scope
	NoToken     Reason = "no token"          // only for Counters: the request has none
	BadRequest  Reason = "malformed request" // only for Counters: the Authorization header is not as in RFC 6750 §2.1
)

func invalid(reason Reason) error { return &InvalidError{reason} }
