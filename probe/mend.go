package probe

// mends says, by case, what to set in the software for which `keyturn example` has complete code.
var mends = map[string]string{
	"expired-1h": expiry,
	"expired-90s": "allow at most 60 seconds of leeway. PyJWT, Django simplejwt: leeway=60; jose, hono: " +
		"clockTolerance 60; express-oauth2-jwt-bearer: clockTolerance 60; golang-jwt (fiber, keyfunc): " +
		"jwt.WithLeeway(time.Minute); jwx: jwt.WithAcceptableSkew(time.Minute)",
	"endless": "require exp. PyJWT: options={\"require\": [\"exp\"]}; jose: requiredClaims: ['exp']; golang-jwt: " +
		"jwt.WithExpirationRequired(); jwx: jwt.WithRequiredClaim(\"exp\"); mod_oauth2: verify.exp=required",
	"nbf-ahead": "check nbf. zitadel/oidc, mod_oauth2 and HAProxy do not by themselves: compare the claim; jwx " +
		"with WithResetValidators: jwt.IsNbfValid(); PyJWT: verify_nbf must be on",
	"iat-ahead": "refuse an iat in the future. PyJWT: verify_iat; golang-jwt: jwt.WithIssuedAt(); jose: " +
		"maxTokenAge; keyturn/verify does",
	"aud-other":      audience,
	"aud-none":       audience,
	"aud-list-other": audience,
	"iss-other":      issuer,
	"iss-slash":      issuer + ", byte for byte",
	"typ": "require the typ at+jwt (RFC 9068 §4). jose: typ: 'at+jwt'; express-oauth2-jwt-bearer: strict: true; " +
		"PyJWT, Django simplejwt, golang-jwt, jwx, go-oidc, zitadel/oidc: compare the header, as `keyturn " +
		"example` does; keyturn/verify does",
	"no-sub": "require sub (RFC 9068 §2.2). PyJWT: options={\"require\": [\"sub\"]}; jose: requiredClaims: " +
		"['sub']; jwx: jwt.WithRequiredClaim(\"sub\")",
	"ended": "introspect each token (nginx, Apache, curl), or read status lists (`status_list: on`; verify, " +
		"PyJWT, jose), or accept that an ended login counts until its token expires",
	"alg": algorithm,
	"other-key": "check the signature. No library skips it by default: look for verify=False, verify_signature, " +
		"ParseUnverified, decode instead of verify, InsecureSkipSignatureCheck",
	caseUnknown: "refuse a kid that the JWKS does not have, and fetch the JWKS for it at most once a minute. " +
		"jose: cooldownDuration; keyfunc: RefreshUnknownKID with a limiter; keyturn/verify does",
	"jwk": "never use a key from the header of a token. Take keys by kid from the JWKS alone",
	caseJKU: "never fetch a URL from the header of a token (RFC 8725 §3.10). jwx: do not use jws.WithVerifyAuto; " +
		"take keys from the JWKS alone",
	caseX5U: "never fetch a URL from the header of a token (RFC 8725 §3.10): take keys from the JWKS alone",
	"crit": "refuse a token with an extension in crit that you do not know (RFC 7515 §4.1.11). jose and go-jose " +
		"do; with PyJWT, golang-jwt, jwx, HAProxy and mod_oauth2, refuse each token with crit",
	"signature-empty": "check the signature, also if it is empty",
	"signature-cut":   "check the whole signature",
	"payload":         "check the signature before you read a claim",
	"base64": "decode strictly, or deny tokens by jti and never by their text. Go: " +
		"base64.RawURLEncoding.Strict(); golang-jwt: jwt.WithStrictDecoding()",
	caseNext: "fetch the JWKS at least once in key_publish_lead, and at an unknown kid: as it is, the rotation " +
		"breaks this API. Restart it before",
}

const (
	expiry = "check exp. All of them do so if it is not turned off: PyJWT verify_exp; jwx: jwt.WithValidate; " +
		"go-oidc: SkipExpiryCheck must be false"
	audience = "check aud. PyJWT: audience=; Django simplejwt: AUDIENCE; jose: audience; " +
		"express-oauth2-jwt-bearer: audience; golang-jwt: jwt.WithAudience; jwx: jwt.WithAudience; go-oidc: " +
		"ClientID, and SkipClientIDCheck must be false; Apache: Require oauth2_claim aud:…"
	issuer = "check iss. PyJWT: issuer=; Django simplejwt: ISSUER; jose: issuer; express-oauth2-jwt-bearer: " +
		"issuerBaseURL or issuer; golang-jwt: jwt.WithIssuer; jwx: jwt.WithIssuer; go-oidc: SkipIssuerCheck must " +
		"be false; Apache: Require oauth2_claim iss:…"
	algorithm = "allow RS256 alone. PyJWT: algorithms=[\"RS256\"]; Django simplejwt: ALGORITHM; jose: " +
		"algorithms: ['RS256']; golang-jwt: jwt.WithValidMethods; jwx: the alg of the key; go-oidc: " +
		"SupportedSigningAlgs"
)
