// A resource server on Express that verifies keyturn's access tokens with express-oauth2-jwt-bearer.
// Start it with `node server.mjs`.
import express from 'express';
import { auth, InvalidRequestError, UnauthorizedError } from 'express-oauth2-jwt-bearer';

const [host, port] = '127.0.0.1:9000'.split(':');
const app = express().disable('x-powered-by');

// The library also accepts a token in the URL, which ends up in logs and histories (RFC 9700 §4.3.2).
app.use((request, response, next) => next('access_token' in request.query ? new InvalidRequestError() : undefined));

app.use(
  auth({
    issuer: 'https://auth.example.com',
    jwksUri: 'https://auth.example.com/.well-known/jwks.json',
    audience: 'https://api.example.com',
    tokenSigningAlg: 'RS256',
    strict: true, // requires typ at+jwt, and sub, client_id, iat and jti (RFC 9068)
    clockTolerance: 0, // the default accepts an expired token for five seconds
    dpop: { enabled: false }, // keyturn's tokens are bearer tokens; do not offer DPoP in WWW-Authenticate

    // The library fetches the key set at the first token, and again when it is five minutes old: a revoked key is trusted no longer. It also
    // fetches the key set when a token names an unknown key, but at most every five seconds, whatever strangers send.
    cacheMaxAge: 5 * 60_000,
    cooldownDuration: 5_000,
  }),
);

app.get('/', (request, response) => {
  const { sub, scope } = request.auth.payload;
  response.json({ sub, scope });
});

// When the library cannot fetch the key set, it reports an invalid token, and only the text of the error differs. Write that text to the
// log: the library would send it in WWW-Authenticate.
const noKeys = /^$|\bE[A-Z]{4,}|JSON Web Key Set (HTTP|malformed)|timed out|hang up|certificate/;

app.use((error, request, response, next) => {
  if (!(error instanceof UnauthorizedError)) return next(error);
  if (error.code === 'invalid_token' && noKeys.test(error.message)) {
    console.error('cannot verify tokens:', error);
    return response.status(503).set('Retry-After', '5').json({ error: 'temporarily_unavailable' });
  }
  // Without a code there was no token to check.
  response
    .status(error.code ? error.status : 401)
    .set('WWW-Authenticate', error.code ? `Bearer error="${error.code}"` : 'Bearer')
    .json({ error: error.code || 'unauthorized' });
});

app.listen(port, host);
