// Package probe asks an API, over HTTP, which access tokens it accepts: good ones, ones that the issuer signed although
// they are wrong, and forged ones. The cases are a fixed list. The package has no key of the issuer: a [Signer] signs.
package probe

import "slices"

// Group is a kind of cases.
type Group string

// The groups of cases.
const (
	Control Group = "control" // shows what the answers of the API mean
	Signed  Group = "signed"  // the issuer signed it, and it is wrong
	Forged  Group = "forged"  // somebody else made it, or changed it
	Ahead   Group = "next"    // good, and signed by the next key
)

// Outcome is what an API does with a token.
type Outcome string

// The outcomes.
const (
	Accepted Outcome = "accepted"
	Refused  Outcome = "refused"
	Failed   Outcome = "failed" // no answer, or 429, or 5xx
	Either   Outcome = "either" // only expected: both are right
)

// Weight says how bad it is if an API accepts a token that it should refuse.
type Weight string

// The weights.
const (
	Must   Weight = "must"   // an RFC requires it, or it is a hole
	Should Weight = "should" // better so, and no hole by itself
)

// Case is one token to present.
type Case struct {
	ID       string  `json:"id"`
	Group    Group   `json:"group"`
	What     string  `json:"what"`
	Expected Outcome `json:"expected"`
	Weight   Weight  `json:"weight"`
	Mend     string  `json:"mend,omitempty"` // what to set, by the software that verifies
	optional string  // flag that adds the case; "": it is always there
	make     func(m *mint) (string, error)
}

// Flags that add cases.
const (
	withScope   = "scope"
	withEndless = "with-endless"
	withNext    = "next"
)

// Cases that the run treats in a way of their own.
const (
	caseNone    = "none"
	caseGarbage = "garbage"
	caseGood    = "good"
	caseLast    = "good-last"
	caseNext    = "next"
	caseJKU     = "jku"
	caseX5U     = "x5u"
	caseUnknown = "unknown-kid"
	caseEnded   = "ended"
)

// unknownKIDs is how many tokens with different unknown kids are presented.
const unknownKIDs = 5

// find returns a case by its id.
func find(id string) Case {
	return cases[slices.IndexFunc(cases, func(c Case) bool { return c.ID == id })]
}

func control(id, what string, expected Outcome, optional string, make func(*mint) (string, error)) Case {
	return Case{
		ID:       id,
		Group:    Control,
		What:     what,
		Expected: expected,
		Weight:   Must,
		optional: optional,
		make:     make,
	}
}

// signed is a case of a token that the issuer signs, after its claims were changed.
func signed(id, what string, weight Weight, expected Outcome, change func(claims)) Case {
	return Case{ID: id, Group: Signed, What: what, Expected: expected, Weight: weight, Mend: mends[id],
		make: func(m *mint) (string, error) {
			c := m.good()
			change(c)
			return m.signer.Sign(Header{Typ: typAccessToken}, c)
		}}
}

// typed is a case of a good token with another typ.
func typed(id, what, typ string, weight Weight) Case {
	return Case{ID: id, Group: Signed, What: what, Expected: Refused, Weight: weight, Mend: mends["typ"],
		make: func(m *mint) (string, error) { return m.signer.Sign(Header{Typ: typ}, m.good()) }}
}

func forged(id, what string, weight Weight, make func(*mint) (string, error)) Case {
	return Case{ID: id, Group: Forged, What: what, Expected: Refused, Weight: weight, Mend: mends[id], make: make}
}

// byAlgorithm is a forged case that the alg in the header makes possible.
func byAlgorithm(id, what string, make func(*mint) (string, error)) Case {
	c := forged(id, what, Must, make)
	c.Mend = mends["alg"]
	return c
}

// cases are all cases, in the order in which they are presented.
var cases = slices.Concat(controls(), signedCases(), forgedCases(), lastCases())

// goodToken makes a good token of the login of the run.
func goodToken(m *mint) (string, error) { return m.goodToken(m.Alive) }

func controls() []Case {
	return []Case{
		control(caseNone, "no token", Refused, "", func(*mint) (string, error) { return "", nil }),
		control(caseGarbage, "a text that is no token", Refused, "",
			func(*mint) (string, error) { return "keyturn-probe-no-token", nil }),
		control(caseGood, "a good token", Accepted, "", goodToken),
		control("no-scope", "a good token without the scope", Refused, withScope,
			func(m *mint) (string, error) {
				c := m.good()
				c["scope"] = ""
				return m.signer.Sign(Header{Typ: typAccessToken}, c)
			}),
	}
}

func lastCases() []Case {
	return []Case{
		{ID: caseNext, Group: Ahead, What: "a good token of the next key", Expected: Accepted, Weight: Must,
			Mend: mends[caseNext], optional: withNext,
			make: func(m *mint) (string, error) { return m.next.Sign(Header{Typ: typAccessToken}, m.good()) }},
		control(caseLast, "a good token again", Accepted, "", goodToken),
	}
}

func signedCases() []Case {
	set := func(name string, value any) func(claims) { return func(c claims) { c[name] = value } }
	without := func(name string) func(claims) { return func(c claims) { delete(c, name) } }
	ago := func(seconds int64) func(claims) {
		return func(c claims) {
			now := c["iat"].(int64)
			c["exp"], c["iat"], c["auth_time"] = now-seconds, now-seconds-lifetime, now-seconds-lifetime
		}
	}
	ahead := func(name string) func(claims) { return func(c claims) { c[name] = c["iat"].(int64) + 600 } }
	return []Case{
		signed("expired-1h", "expired an hour ago", Must, Refused, ago(3600)),
		signed("expired-90s", "expired 90 seconds ago", Must, Refused, ago(90)),
		{ID: "endless", Group: Signed, What: "no exp", Expected: Refused, Weight: Must, Mend: mends["endless"],
			optional: withEndless, make: func(m *mint) (string, error) {
				c := m.good()
				delete(c, "exp")
				return m.signer.Sign(Header{Typ: typAccessToken}, c)
			}},
		signed("nbf-ahead", "valid only in ten minutes (nbf)", Must, Refused, ahead("nbf")),
		signed("iat-ahead", "issued in ten minutes (iat)", Should, Refused, ahead("iat")),
		signed("aud-other", "another audience", Must, Refused, set("aud", OtherAudience)),
		signed("aud-none", "no audience", Must, Refused, without("aud")),
		signed("aud-list-ours", "a list of audiences with the right one", Should, Either,
			func(c claims) { c["aud"] = []string{OtherAudience, c["aud"].(string)} }),
		signed("aud-list-other", "a list of other audiences", Must, Refused,
			set("aud", []string{OtherAudience, OtherAudience + ":2"})),
		signed("iss-other", "another issuer", Must, Refused, set("iss", OtherIssuer)),
		signed("iss-slash", "the issuer with a slash at its end", Must, Refused,
			func(c claims) { c["iss"] = c["iss"].(string) + "/" }),
		typed("typ-jwt", "typ JWT, which a client may have been given (--token-typ)", typJWT, Should),
		typed("typ-none", "no typ", "", Must),
		typed("typ-other", "another typ", TypOther, Must),
		signed("no-sub", "no sub", Should, Refused, without("sub")),
		{ID: caseEnded, Group: Signed, What: "its login has ended", Expected: Either, Weight: Should,
			Mend: mends[caseEnded], make: func(m *mint) (string, error) {
				c := m.good()
				m.Ended.in(c)
				return m.signer.Sign(Header{Typ: typAccessToken}, c)
			}},
	}
}

func forgedCases() []Case {
	return []Case{
		forged(caseUnknown, "a kid that nobody knows, five times", Must, (*mint).unknownKID),
		byAlgorithm("none-alg-1", "alg none, not signed", unsigned("none")),
		byAlgorithm("none-alg-2", "alg None, not signed", unsigned("None")),
		byAlgorithm("none-alg-3", "alg NONE, not signed", unsigned("NONE")),
		byAlgorithm("none-alg-4", "alg nOnE, not signed", unsigned("nOnE")),
		byAlgorithm("hs256-pem", "alg HS256, under the public key as PEM", keyed(asPEM)),
		byAlgorithm("hs256-der", "alg HS256, under the public key as DER", keyed(asDER)),
		byAlgorithm("hs256-modulus", "alg HS256, under the modulus of the public key", keyed(asModulus)),
		forged("other-key", "signed by another key, under the right kid", Must, (*mint).otherKey),
		forged("jwk", "signed by a key in its own header (jwk)", Must, (*mint).keyInHeader),
		forged(caseJKU, "signed by a key at a URL in its header (jku)", Must, (*mint).keyAtURL),
		forged(caseX5U, "signed by a certificate at a URL in its header (x5u)", Must, (*mint).certificateAtURL),
		forged("crit", "an extension that must be understood (crit)", Must, (*mint).critical),
		forged("signature-empty", "no signature", Must, altered(emptySignature)),
		forged("signature-cut", "half a signature", Must, altered(cutSignature)),
		forged("payload", "another scope than was signed", Must, altered(otherPayload)),
		forged("base64", "a signature in another spelling (base64url with wrong last bits)", Should,
			altered(otherSpelling)),
	}
}
