// A client program with openid-client. It logs a user in with LOGIN_USER and LOGIN_PASSWORD, calls the API at each line of its standard input,
// refreshes its tokens when they have expired, and logs out when the input ends. CLIENT_SECRET is the client's secret.
//   echo | node client.mjs
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import * as oauth from 'openid-client';

const issuer = new URL('https://auth.example.com');
const api = new URL('https://api.example.com');
const { CLIENT_SECRET, LOGIN_USER, LOGIN_PASSWORD } = process.env;

// keyturn publishes RFC 8414 metadata, not OpenID metadata. Only an issuer on this machine may be without TLS.
const loopback = issuer.protocol === 'http:' && ['127.0.0.1', '[::1]', 'localhost'].includes(issuer.hostname);
const config = await oauth.discovery(issuer, 'app', undefined, oauth.ClientSecretBasic(CLIENT_SECRET), {
  algorithm: 'oauth2',
  execute: loopback ? [oauth.allowInsecureRequests] : [],
  timeout: 3, // seconds, so that three attempts at a refresh fit into keyturn's ten seconds
});

class LoginNeeded extends Error {}

// Repeats a request if the server is busy or out of reach, three times at most. For ten seconds this is safe even if the response to a
// refresh was lost: keyturn returns the same refresh token again.
async function persist(request) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await request();
    } catch (error) {
      // The library has no separate error for 503: the response is the cause.
      const response = error.cause instanceof Response ? error.cause : error.response;
      const transient = response ? [429, 503].includes(response.status) : error.code === 'OAUTH_TIMEOUT' || error.message === 'fetch failed';
      if (error.error === 'invalid_grant') throw new LoginNeeded('the server refused', { cause: error });
      if (!transient || attempt === 3) throw error;
      await sleep(Math.min(Number(response?.headers.get('Retry-After')) || 1, 60) * 1000);
    }
  }
}

const login = (username, password) => persist(() => oauth.genericGrantRequest(config, 'password', { username, password }));

let tokens;
let refreshing;

// All calls that meet an expired token share one refresh, because each refresh token works once.
async function refresh(expired) {
  if (tokens.access_token !== expired) return; // another call has refreshed since
  refreshing ??= persist(() => oauth.refreshTokenGrant(config, tokens.refresh_token)).finally(() => (refreshing = undefined));
  tokens = await refreshing;
}

async function call(url, mayRefresh = true) {
  const { access_token } = tokens;
  try {
    return await oauth.fetchProtectedResource(config, access_token, url, 'GET');
  } catch (error) {
    if (!(error instanceof oauth.WWWAuthenticateChallengeError && error.status === 401 && mayRefresh)) throw error;
  }
  await refresh(access_token);
  return call(url, false);
}

try {
  tokens = await login(LOGIN_USER, LOGIN_PASSWORD);
} catch (error) {
  if (!(error instanceof LoginNeeded)) throw error;
  console.error('Wrong username or password.');
  process.exit(1);
}

try {
  for await (const _ of createInterface({ input: process.stdin })) {
    const response = await call(api);
    console.log(response.status, await response.text());
  }
} catch (error) {
  if (!(error instanceof LoginNeeded)) throw error;
  console.error('The login has ended. Log in again.');
  process.exit(1);
}

// Revoking any token of the login ends it with all its tokens.
await persist(() => oauth.tokenRevocation(config, tokens.refresh_token));
