// A resource server on plain node:http that verifies keyturn's access tokens with jose.
// Start it with `node server.mjs`.
import { createServer } from 'node:http';
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

const [host, port] = '127.0.0.1:9000'.split(':');

// jose fetches the key set at the first token, and again when it is five minutes old: a revoked key is trusted no longer. It also fetches
// the key set when a token names an unknown key, but at most every five seconds, whatever strangers send.
const keys = createRemoteJWKSet(new URL('https://auth.example.com/.well-known/jwks.json'), {
  cacheMaxAge: 5 * 60_000,
  cooldownDuration: 5_000,
});

const expected = {
  algorithms: ['RS256'],
  issuer: 'https://auth.example.com',
  audience: 'https://api.example.com',
  typ: 'at+jwt',
  requiredClaims: ['exp', 'sub'], // jose checks `exp` only if it is present
};

// The errors that jose throws without a key set, as opposed to a bad token.
const noKeys = ['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID'];

const server = createServer(async (request, response) => {
  const answer = (status, body, headers) =>
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers }).end(JSON.stringify(body));

  const token = /^Bearer +([\w.~+/-]+=*)$/i.exec(request.headers.authorization)?.[1];
  if (!token) return answer(401, { error: 'unauthorized' }, { 'WWW-Authenticate': 'Bearer' });

  let claims;
  try {
    claims = (await jwtVerify(token, keys, expected)).payload;
  } catch (error) {
    if (error instanceof errors.JOSEError && !noKeys.includes(error.code)) {
      return answer(401, { error: 'invalid_token' }, { 'WWW-Authenticate': 'Bearer error="invalid_token"' });
    }
    console.error('cannot verify tokens:', error);
    return answer(503, { error: 'temporarily_unavailable' }, { 'Retry-After': '5' });
  }

  if (request.url !== '/') return answer(404, { error: 'not_found' });
  answer(200, { sub: claims.sub, scope: claims.scope });
});

server.listen(port, host);
