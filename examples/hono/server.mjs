// A resource server with Hono that verifies keyturn's access tokens. Start it with `node server.mjs`.
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { jwk } from 'hono/jwk';

const [hostname, port] = '127.0.0.1:9000'.split(':');
const jwksAge = 5 * 60_000; // a revoked key is trusted no longer
const cooldown = 5_000; // how often a token with an unknown key may cause a fetch

let keys = [];
let fetched = -Infinity; // when the keys were fetched
let asked = -Infinity; // when they were last asked for

// freshKeys returns the keys. It fetches them if they are old, or if the token names an unknown one.
async function freshKeys(c) {
  const now = performance.now();
  const known = keys.some(key => key.kid === kidOf(c));
  const old = now - fetched >= jwksAge;
  if (!old && (known || now - asked < cooldown)) return keys;
  asked = now;
  const answer = await fetch('https://auth.example.com/.well-known/jwks.json', { signal: AbortSignal.timeout(5_000) });
  if (!answer.ok) throw new Error(`the JWKS: ${answer.status}`);
  keys = (await answer.json()).keys;
  fetched = now;
  return keys;
}

// kidOf returns the kid in the header of the token, before anything is verified.
function kidOf(c) {
  try {
    const token = c.req.header('Authorization').split(/\s+/)[1];
    return JSON.parse(Buffer.from(token.split('.')[0], 'base64url')).kid;
  } catch {
    return undefined;
  }
}

const app = new Hono();

app.use(jwk({
  keys: async c => {
    try {
      return await freshKeys(c);
    } catch (error) {
      throw new Error('no keys', { cause: error }); // the middleware passes an Error on, instead of 401
    }
  },
  alg: ['RS256'],
  verification: { iss: 'https://auth.example.com', aud: 'https://api.example.com', typ: 'at+jwt' },
}));

app.use(async (c, next) => {
  const { exp, sub } = c.get('jwtPayload');
  if (exp === undefined || sub === undefined) {
    return c.json({ error: 'invalid_token' }, 401, { 'WWW-Authenticate': 'Bearer error="invalid_token"' });
  }
  await next();
});

app.get('/', c => {
  const { sub, scope } = c.get('jwtPayload');
  return c.json({ sub, scope });
});

app.onError((error, c) => {
  if (error.getResponse) return error.getResponse();
  console.error('cannot verify tokens:', error);
  return c.json({ error: 'temporarily_unavailable' }, 503, { 'Retry-After': '5' });
});

serve({ fetch: app.fetch, hostname, port: Number(port) });
