// A page in plain browser JavaScript that logs a user in at keyturn and calls an API. All tabs of the page share one login.
// keyturn (cors_origins) and the API must both allow its origin.

const issuer = 'https://auth.example.com';
const api = 'https://api.example.com';
const client = 'page'; // a public client: a page can keep no secret

// Messages for the user.
class Trouble extends Error {}

// The server's error for a wrong password, or for a login that has ended.
class Refused extends Error {}

// ---- The session: the tokens of the login, and its user. It is in IndexedDB: every tab sees a write at once, and a crash does not lose
// it. localStorage promises neither, and a client that sends a replaced refresh token too late is logged out.

const database = new Promise((resolve, reject) => {
  const request = indexedDB.open('login');
  request.onupgradeneeded = () => request.result.createObjectStore('session');
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

async function store(mode, action) {
  const transaction = (await database).transaction('session', mode, { durability: 'strict' });
  const request = action(transaction.objectStore('session'));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

const load = () => store('readonly', (sessions) => sessions.get('current'));
const save = (session) => store('readwrite', (sessions) => sessions.put(session, 'current'));
const forget = () => store('readwrite', (sessions) => sessions.delete('current'));

// Only one tab at a time changes the session. When a tab closes or crashes, its lock is released.
const alone = (change) => navigator.locks.request('session', change);

// ---- The server.

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function post(path, parameters) {
  const send = async () => {
    const response = await fetch(issuer + path, {
      method: 'POST',
      body: new URLSearchParams({ client_id: client, ...parameters }),
      signal: AbortSignal.timeout(2500),
    });
    return { response, body: await response.json() };
  };
  for (let attempt = 1; ; attempt++) {
    // Send a failed request once more, at once: for ten seconds keyturn repeats the response to a refresh.
    const { response, body } = await send()
      .catch((error) => (attempt === 1 ? send() : Promise.reject(error)))
      .catch(() => {
        throw new Trouble('The login server cannot be reached. Check your connection and try again.');
      });
    if (response.ok) return body;
    if (body.error === 'invalid_grant') throw new Refused();
    if (response.status !== 429 && response.status !== 503) throw new Error(`${path}: ${response.status} ${body.error}`);
    const wait = Number(response.headers.get('Retry-After')) || 1;
    if (wait > 2 || attempt === 2) throw new Trouble(`The login server is busy. Try again in ${wait} s.`);
    await sleep(wait);
  }
}

const login = (username, password) =>
  alone(async () => {
    try {
      await save(await post('/token', { grant_type: 'password', username, password }));
    } catch (error) {
      throw error instanceof Refused ? new Trouble('Wrong username or password.') : error;
    }
    await tell('');
  });

// Returns a new session after the API has refused the access token. The first tab refreshes. The others wait for the lock, see that the
// session has changed, and use it.
const renew = (old) =>
  alone(async () => {
    const session = await load();
    if (session?.username !== old.username) throw new Trouble('You have been logged out.');
    if (session.access_token !== old.access_token) return session;
    try {
      const renewed = { ...session, ...(await post('/token', { grant_type: 'refresh_token', refresh_token: session.refresh_token })) };
      await save(renewed);
      return renewed;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      await forget();
      await tell('Your login has ended. Log in again.');
      throw new Trouble('Your login has ended. Log in again.');
    }
  });

// Revoking any token of the login ends it with all its tokens. If the server is down, the user is still logged out in this browser.
const logout = () =>
  alone(async () => {
    const session = await load();
    let message = 'You have been logged out.';
    try {
      if (session) await post('/revoke', { token: session.refresh_token });
    } catch (error) {
      console.error(error);
      message = 'You have been logged out here, but the login server does not know it.';
    }
    await forget();
    await tell(message);
  });

// ---- The API.

async function call(path) {
  const get = ({ access_token }) =>
    fetch(api + path, { headers: { Authorization: `Bearer ${access_token}` } }).catch(() => {
      throw new Trouble('The service cannot be reached. Check your connection and try again.');
    });

  const session = await load();
  if (!session) throw new Trouble('You have been logged out.');
  let response = await get(session);
  if (response.status === 401) response = await get(await renew(session));
  if (response.ok) return response.json();
  if (response.status !== 429 && response.status !== 503) throw new Error(`${path}: ${response.status}`);
  const wait = response.headers.get('Retry-After');
  throw new Trouble(`The service is busy. Try again ${wait ? `in ${wait} s` : 'later'}.`);
}

// ---- The page.

const element = (id) => document.getElementById(id);

async function show(message) {
  const name = (await load())?.username ?? '';
  if (element('who').textContent !== name) element('result').textContent = ''; // it belongs to another user
  element('who').textContent = name;
  element('page').hidden = !name;
  element('login').hidden = !!name;
  element('message').textContent = message;
}

// Somebody has logged in or out: update every tab.
const tabs = new BroadcastChannel('session');
tabs.onmessage = ({ data }) => show(data);
function tell(message) {
  tabs.postMessage(message);
  return show(message);
}

async function act(button, action) {
  button.disabled = true;
  element('message').textContent = '';
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Trouble)) console.error(error);
    await show(error instanceof Trouble ? error.message : 'Something went wrong. Try again later.');
  } finally {
    button.disabled = false;
  }
}

element('login').onsubmit = (event) => {
  event.preventDefault();
  const form = event.target;
  act(event.submitter, async () => {
    await login(form.username.value, form.password.value);
    form.reset();
  });
};
element('call').onclick = (event) =>
  act(event.target, async () => {
    element('result').textContent = JSON.stringify(await call('/'), null, 2);
  });
element('logout').onclick = (event) => act(event.target, logout);

// Also runs when the browser restores the page from its history.
addEventListener('pageshow', () => show(''));
