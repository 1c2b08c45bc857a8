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

async function fetchList(uri, list) {
  const response = await fetch(uri, {
    headers: list.etag ? { ...headers, 'If-None-Match': list.etag } : headers,
    redirect: 'error',
    signal: AbortSignal.timeout(5_000),
  });
  if (response.status === 404) {
    list.over = true; // its last token has expired
    list.etag = undefined;
  } else if (response.status !== 304) {
    if (!response.ok) throw new Unavailable(`${uri}: status ${response.status}`);
    const { payload } = await jwtVerify(await response.text(), keys, {
      algorithms: ['RS256'],
      typ: 'statuslist+jwt',
      subject: uri,
      requiredClaims: ['exp', 'iat'],
    });
    const { lst, bits } = payload.status_list;
    const status = StatusList.decompressStatusList(lst, bits);
    // A server that lags behind must not revive a login: its list is older, or of the same second with fewer marks.
    if (payload.iat < list.issued) throw new Unavailable(`${uri}: an older list`);
    if (payload.iat === list.issued) {
      list.status?.statusList.forEach((value, index) => value !== 0 && status.setStatus(index, value));
    }
    Object.assign(list, { status, over: false, etag: response.headers.get('ETag'), issued: payload.iat });
  }
  list.fetched = Date.now();
}

// refreshed fetches a list, once for all who wait for it.
function refreshed(uri, list) {
  list.pending ??= fetchList(uri, list)
    .catch((error) => {
      throw new Unavailable(`${uri}: ${error.message}`);
    })
    .finally(() => (list.pending = undefined));
  return list.pending;
}

// hasEnded reports whether the login of a token has ended.
async function hasEnded(status) {
  const { uri, idx } = status?.status_list ?? {};
  const id = typeof uri === 'string' && uri.startsWith(`${issuer}/status/`) && uri.slice(`${issuer}/status/`.length);
  if (!id || !/^[\w-]{1,64}$/.test(id)) throw new errors.JWTInvalid('no status list of this server');
  if (!Number.isInteger(idx) || idx < 0) throw new errors.JWTInvalid('no place in a status list');
  if (!lists.has(uri)) lists.set(uri, { issued: 0, fetched: 0 });
  const list = lists.get(uri);
  list.used = Date.now();
  if (Date.now() - list.fetched > stale) await refreshed(uri, list);
  if (list.over) return true;
  if (idx >= list.status.statusList.length) throw new errors.JWTInvalid('no place in a status list');
  return list.status.getStatus(idx) !== 0;
}

async function pollAll() {
  const complain = (error) => console.error('cannot fetch:', error.message);
  await Promise.all([
    keys.reload().catch(complain),
    ...[...lists].map(([uri, list]) => {
      if (Date.now() - list.used <= stale) return refreshed(uri, list).catch(complain);
      lists.delete(uri);
    }),
  ]);
  setTimeout(pollAll, poll);
}
setTimeout(pollAll, poll);

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
    if ('status' in claims && (await hasEnded(claims.status))) return refuse();
  } catch (error) {
    if (error instanceof errors.JOSEError && !noKeys.includes(error.code)) return refuse();
    console.error('cannot verify tokens:', error);
    return answer(503, { error: 'temporarily_unavailable' }, { 'Retry-After': '5' });
  }

  if (request.url !== '/') return answer(404, { error: 'not_found' });
  answer(200, { sub: claims.sub, scope: claims.scope });
});

server.listen(port, host);
