// A resource server on Express that verifies keyturn's access tokens for itself, with express-oauth2-jwt-bearer.
// Start it with `node server.mjs`.
import express from 'express';
import { auth, InvalidRequestError, UnauthorizedError } from 'express-oauth2-jwt-bearer';

const [host, port] = '127.0.0.1:9000'.split(':');
const app = express().disable('x-powered-by');

// The library would take a token from the URL too, from where it gets into logs and histories (RFC 9700 §4.3.2).
app.use((request, response, next) => next('access_token' in request.query ? new InvalidRequestError() : undefined));

app.use(
  auth({
    issuer: 'https://auth.example.com',
    jwksUri: 'https://auth.example.com/.well-known/jwks.json',
    audience: 'https://api.example.com',
    tokenSigningAlg: 'RS256',
    strict: true, // `typ` is at+jwt, and sub, client_id, iat and jti are there (RFC 9068)
    clockTolerance: 0, // five seconds otherwise, for which an expired token would do
    dpop: { enabled: false }, // keyturn's tokens are bearer tokens; do not offer DPoP in WWW-Authenticate

    // The key set is fetched at the first token, and again when it is five minutes old: so long at most is a revoked key trusted. A token that
    // names a key not in it has it fetched at once, though no sooner than five seconds after the last time, whatever strangers send.
    cacheMaxAge: 5 * 60_000,
    cooldownDuration: 5_000,
  }),
);

app.get('/', (request, response) => {
  const { sub, scope } = request.auth.payload;
  response.json({ sub, scope });
});

// To the library a key set that it cannot fetch is an invalid token too; only the words of the error tell the two apart. Those words are for
// the log: the library would have them in WWW-Authenticate.
const noKeys = /^$|\bE[A-Z]{4,}|JSON Web Key Set (HTTP|malformed)|timed out|hang up|certificate/;

app.use((error, request, response, next) => {
  if (!(error instanceof UnauthorizedError)) return next(error);
  if (error.code === 'invalid_token' && noKeys.test(error.message)) {
    console.error('cannot verify tokens:', error);
    return response.status(503).set('Retry-After', '5').json({ error: 'temporarily_unavailable' });
  }
  // Without a code there was no token that could be judged.
  response
    .status(error.code ? error.status : 401)
    .set('WWW-Authenticate', error.code ? `Bearer error="${error.code}"` : 'Bearer')
    .json({ error: error.code || 'unauthorized' });
});

app.listen(port, host);
