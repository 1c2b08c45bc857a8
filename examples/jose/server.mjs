// A resource server on plain node:http that verifies keyturn's access tokens with jose, and asks for their status.
// Start it with `node server.mjs`.
import { createServer } from 'node:http';
import { StatusList } from '@sd-jwt/jwt-status-list';
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

const [host, port] = '127.0.0.1:9000'.split(':');
const issuer = 'https://auth.example.com';
const audience = 'https://api.example.com';
const poll = 15_000; // milliseconds between two looks at the keys and the status lists
const stale = 10 * 60_000; // older keys and lists are not used
const headers = { 'User-Agent': `keyturn-example-jose (${audience})` };

// jose also fetches the key set when a token names an unknown key, but at most every five seconds, whatever strangers send.
const keys = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`), {
  cacheMaxAge: stale,
  cooldownDuration: 5_000,
  headers,
});

class Unavailable extends Error {}

// The status lists that tokens have named, by URI (draft-ietf-oauth-status-list).
const lists = new Map();

async function fetchList(uri) {
  const list = lists.get(uri);
  const response = await fetch(uri, {
    headers: list?.etag ? { ...headers, 'If-None-Match': list.etag } : headers,
    redirect: 'error',
    signal: AbortSignal.timeout(5_000),
  });
  if (response.status === 304) return Object.assign(list, { fetched: Date.now() });
  if (response.status === 404) return lists.set(uri, { over: true, fetched: Date.now(), used: Date.now() }).get(uri);
  if (!response.ok) throw new Unavailable(`${uri}: status ${response.status}`);
  const { payload } = await jwtVerify(await response.text(), keys, {
    algorithms: ['RS256'],
    typ: 'statuslist+jwt',
    subject: uri,
    requiredClaims: ['exp', 'iat'],
  });
  if (payload.iat < (list?.issued ?? 0)) throw new Unavailable(`${uri}: an older list`); // of a server that lags behind
  const { lst, bits } = payload.status_list;
  const status = StatusList.decompressStatusList(lst, bits);
  const etag = response.headers.get('ETag');
  return lists.set(uri, { status, etag, issued: payload.iat, fetched: Date.now(), used: Date.now() }).get(uri);
}

// hasEnded reports whether the login of a token has ended.
async function hasEnded({ idx, uri }) {
  if (!uri.startsWith(`${issuer}/status/`)) throw new errors.JWTInvalid('a status list of another server');
  let list = lists.get(uri);
  if (!list || Date.now() - list.fetched > stale) {
    list = await fetchList(uri).catch((error) => {
      throw new Unavailable(error.message);
    });
  }
  list.used = Date.now();
  return list.over || list.status.getStatus(idx) !== 0;
}

setInterval(async () => {
  const complain = (error) => console.error('cannot fetch:', error.message);
  await keys.reload().catch(complain);
  for (const [uri, list] of lists) {
    if (Date.now() - list.used > stale) lists.delete(uri);
    else await fetchList(uri).catch(complain);
  }
}, poll);

const expected = {
  algorithms: ['RS256'],
  issuer,
  audience,
  typ: 'at+jwt',
  requiredClaims: ['exp', 'sub'], // jose checks `exp` only if it is present
};

// The errors that jose throws without a key set, as opposed to a bad token.
const noKeys = ['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID'];

const server = createServer(async (request, response) => {
  const answer = (status, body, headers) =>
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers }).end(JSON.stringify(body));
  const refuse = () => answer(401, { error: 'invalid_token' }, { 'WWW-Authenticate': 'Bearer error="invalid_token"' });

  const token = /^Bearer +([\w.~+/-]+=*)$/i.exec(request.headers.authorization)?.[1];
  if (!token) return answer(401, { error: 'unauthorized' }, { 'WWW-Authenticate': 'Bearer' });

  let claims;
  try {
    claims = (await jwtVerify(token, keys, expected)).payload;
    if (claims.status && (await hasEnded(claims.status.status_list))) return refuse();
  } catch (error) {
    if (error instanceof errors.JOSEError && !noKeys.includes(error.code)) return refuse();
    console.error('cannot verify tokens:', error);
    return answer(503, { error: 'temporarily_unavailable' }, { 'Retry-After': '5' });
  }

  if (request.url !== '/') return answer(404, { error: 'not_found' });
  answer(200, { sub: claims.sub, scope: claims.scope });
});

server.listen(port, host);
