// Drives the page in Chromium: three tabs, one login. The client's access tokens must be short-lived, because the test waits for one to expire.
//   PAGE_URL=http://127.0.0.1:8000/ LOGIN_USER=… LOGIN_PASSWORD=… node browser.test.mjs
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from 'playwright-core';

const { PAGE_URL, LOGIN_USER, LOGIN_PASSWORD } = process.env;
assert(PAGE_URL && LOGIN_USER && LOGIN_PASSWORD, 'PAGE_URL, LOGIN_USER and LOGIN_PASSWORD must be set');

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});

try {
  const context = await browser.newContext();
  context.setDefaultTimeout(15_000);

  // Every request of the page to the token endpoint and to the API, as the browser sees it.
  let asked = []; // grant types
  let called = []; // status codes
  let newest; // answer of the token endpoint
  let issuer;
  let api;
  context.on('request', (request) => {
    if (request.method() !== 'POST' || !request.url().endsWith('/token')) return;
    issuer = request.url().slice(0, -'/token'.length);
    asked.push(new URLSearchParams(request.postData()).get('grant_type'));
  });
  context.on('response', async (response) => {
    if (response.url() === `${issuer}/token` && response.ok()) newest = await response.json().catch(() => newest);
    if (!response.request().headers().authorization) return;
    api = response.url();
    called.push(response.status());
  });

  const tabs = [];
  for (let i = 0; i < 3; i++) {
    const tab = await context.newPage();
    await tab.goto(PAGE_URL);
    tabs.push(tab);
  }
  const form = (tab) => tab.locator('#login');
  const everyTab = (action) => Promise.all(tabs.map(action));
  const formEverywhere = () => everyTab((tab) => form(tab).waitFor({ state: 'visible' }));
  const pageEverywhere = () => everyTab((tab) => tab.locator('#page').waitFor({ state: 'visible' }));
  const message = (tab, text) => tab.locator('#message', { hasText: text }).waitFor();
  const click = (tab, name) => tab.getByRole('button', { name }).click();

  async function login(tab, password) {
    await tab.getByLabel('Username').fill(LOGIN_USER);
    await tab.getByLabel('Password').fill(password);
    await click(tab, 'Log in');
  }

  async function call(tab) {
    await tab.locator('#result').evaluate((result) => (result.textContent = ''));
    await click(tab, 'Call the API');
    await tab.locator('#result', { hasText: '"sub"' }).waitFor();
  }

  // Waits until the API refuses the newest access token, in spite of any leeway.
  async function expire() {
    const headers = { Authorization: `Bearer ${newest.access_token}` };
    for (let i = 0; i < 200; i++) {
      if ((await fetch(api, { headers })).status === 401) return forgetWhatWasSeen();
      await sleep(500);
    }
    assert.fail('the access token does not expire');
  }
  function forgetWhatWasSeen() {
    asked = [];
    called = [];
  }

  // Lets every tab call, and blocks refreshes until the API has refused all of them, so that all meet the expired token at the same time.
  async function together(action) {
    await context.route(`${issuer}/token`, async (route) => {
      while (called.length < tabs.length) await sleep(20);
      await route.continue();
    });
    await everyTab(action);
    await context.unroute(`${issuer}/token`);
  }

  async function step(name, action) {
    await action();
    console.log('ok:', name);
  }

  await step('a wrong password is told', async () => {
    await formEverywhere();
    await login(tabs[0], `${LOGIN_PASSWORD}, not`);
    await message(tabs[0], 'Wrong username or password.');
    assert.deepEqual(asked, ['password']);
  });

  await step('a login is one for all tabs', async () => {
    await login(tabs[0], LOGIN_PASSWORD);
    await pageEverywhere();
    await everyTab(call);
    assert.deepEqual(asked, ['password', 'password']);
  });

  await step('an expired token is refreshed once, and every call repeated', async () => {
    for (let round = 0; round < 3; round++) {
      await expire();
      await together(call);
      assert.deepEqual(asked, ['refresh_token']);
      assert.deepEqual(called.sort(), [200, 200, 200, 401, 401, 401]);
    }
  });

  await step('a reload keeps the session', async () => {
    forgetWhatWasSeen();
    await everyTab((tab) => tab.reload());
    await pageEverywhere();
    await everyTab(call);
    assert(asked.length <= 1 && !asked.includes('password'), `asked for ${asked}`); // the token may have expired meanwhile
  });

  await step('a tab that closes before it has stored what it got harms no other', async () => {
    const doomed = await context.newPage();
    await doomed.goto(PAGE_URL);
    await expire();
    let answered;
    const answer = new Promise((resolve) => (answered = resolve));
    await doomed.route(`${issuer}/token`, async (route) => {
      await route.fetch(); // the server replaces the refresh token, but the page does not get it
      answered();
    });
    await click(doomed, 'Call the API');
    await answer;
    const calls = everyTab(call); // all of them wait for the lock
    await sleep(300);
    await doomed.close();
    await calls;
    assert.deepEqual(asked, ['refresh_token', 'refresh_token']);
  });

  await step('a grant that was revoked shows the login form everywhere', async () => {
    const body = new URLSearchParams({ client_id: 'page', token: newest.refresh_token });
    assert.equal((await fetch(`${issuer}/revoke`, { method: 'POST', body })).status, 200);
    await expire();
    await together(async (tab) => {
      await click(tab, 'Call the API');
      await form(tab).waitFor({ state: 'visible' });
    });
    await everyTab((tab) => tab.locator('#message', { hasText: /log/i }).waitFor());
    assert.deepEqual(asked, ['refresh_token']);
    assert.deepEqual(called, [401, 401, 401]);
  });

  await step('a logout is one for all tabs, and ends the grant', async () => {
    await login(tabs[1], LOGIN_PASSWORD);
    await pageEverywhere();
    const { refresh_token } = newest;
    await click(tabs[2], 'Log out');
    await formEverywhere();
    await everyTab((tab) => message(tab, 'You have been logged out.'));
    const body = new URLSearchParams({ grant_type: 'refresh_token', client_id: 'page', refresh_token });
    assert.equal((await fetch(`${issuer}/token`, { method: 'POST', body })).status, 400);
  });
} finally {
  await browser.close();
}
