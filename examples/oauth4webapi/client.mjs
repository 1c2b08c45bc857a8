// A client program with oauth4webapi. It logs a user in with LOGIN_USER and LOGIN_PASSWORD, calls the API at each line of its standard input,
// refreshes its tokens when they have expired, and logs out when the input ends. CLIENT_SECRET is the client's secret.
//   echo | node client.mjs
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import * as oauth from 'oauth4webapi';

const issuer = new URL('https://auth.example.com');
const api = new URL('https://api.example.com');
const { CLIENT_SECRET, LOGIN_USER, LOGIN_PASSWORD } = process.env;

const client = { client_id: 'app' };
const secret = oauth.ClientSecretBasic(CLIENT_SECRET);

// Only an issuer on this machine may be without TLS.
const loopback = issuer.protocol === 'http:' && ['127.0.0.1', '[::1]', 'localhost'].includes(issuer.hostname);
// Three seconds, so that three attempts at a refresh fit into keyturn's ten seconds.
const options = { [oauth.allowInsecureRequests]: loopback, signal: () => AbortSignal.timeout(3000) };

class LoginNeeded extends Error {}

// Sends a request, and repeats it if the server is busy or out of reach, three times at most. For ten seconds this is safe even if the
// response to a refresh was lost: keyturn returns the same refresh token again.
async function send(request) {
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await request();
      if (![429, 503].includes(response.status) || attempt === 3) return response;
    } catch (error) {
      if (!(error.message === 'fetch failed' || error.name === 'TimeoutError') || attempt === 3) throw error;
    }
    await sleep(Math.min(Number(response?.headers.get('Retry-After')) || 1, 60) * 1000);
  }
}

function refused(error) {
  throw error.error === 'invalid_grant' ? new LoginNeeded('the server refused', { cause: error }) : error;
}

// keyturn publishes RFC 8414 metadata, not OpenID metadata.
const server = await send(() => oauth.discoveryRequest(issuer, { ...options, algorithm: 'oauth2' })).then((response) =>
  oauth.processDiscoveryResponse(issuer, response),
);

let tokens;
let refreshing;

async function login(username, password) {
  const response = await send(() =>
    oauth.genericTokenEndpointRequest(server, client, secret, 'password', { username, password }, options),
  );
  tokens = await oauth.processGenericTokenEndpointResponse(server, client, response).catch(refused);
}

// All calls that meet an expired token share one refresh, because each refresh token works once.
async function refresh(expired) {
  if (tokens.access_token !== expired) return; // another call has refreshed since
  refreshing ??= send(() => oauth.refreshTokenGrantRequest(server, client, secret, tokens.refresh_token, options))
    .then((response) => oauth.processRefreshTokenResponse(server, client, response))
    .finally(() => (refreshing = undefined));
  tokens = await refreshing.catch(refused);
}

// Revoking any token of the login ends it with all its tokens.
async function logout() {
  await oauth.processRevocationResponse(
    await send(() => oauth.revocationRequest(server, client, secret, tokens.refresh_token, options)),
  );
}

async function call(url, mayRefresh = true) {
  const { access_token } = tokens;
  try {
    return await oauth.protectedResourceRequest(access_token, 'GET', url, undefined, undefined, options);
  } catch (error) {
    if (!(error instanceof oauth.WWWAuthenticateChallengeError && error.status === 401 && mayRefresh)) throw error;
  }
  await refresh(access_token);
  return call(url, false);
}

try {
  await login(LOGIN_USER, LOGIN_PASSWORD);
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

await logout();
