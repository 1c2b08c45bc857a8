// Does every job of the console in Chromium, with scripts and without, and looks at each page with axe-core. The test
// in browser_test.go starts the server and this program. It prints one line for each problem, and exits with 1 if there
// are any.
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const order = JSON.parse(process.env.KEYTURN_BROWSER);
const require = createRequire(join(order.tools, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const problems = [];
const complain = (text) => {
  problems.push(text);
  console.log(text);
};

const browser = await chromium.launch({ executablePath: order.chromium, args: ["--no-sandbox"] });

// visitor opens a browser profile. Every error on the console, violation of the policy, and failed request counts.
const visitor = async (name, options) => {
  const context = await browser.newContext({ locale: "en-GB", reducedMotion: "reduce", ...options });
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  page.on("console", (m) => {
    if (m.type() === "error" && !/status of (404|422)/.test(m.text())) complain(`${name}: ${page.url()}: ${m.text()}`);
  });
  page.on("pageerror", (e) => complain(`${name}: ${page.url()}: ${e.message}`));
  return page;
};

const expectText = async (page, text, where) => {
  const body = await page.locator("body").innerText();
  if (!body.includes(text)) complain(`${where}: ${page.url()} does not say ${JSON.stringify(text)}: ${body.slice(0, 900)}`);
};

const open = async (page, path) => {
  const answer = await page.goto(order.base + path);
  return answer;
};

const enter = async (page, link) => {
  await page.goto(link);
  if (!page.url().endsWith("/enter")) complain(`the link stays in the address: ${page.url()}`);
  await page.getByRole("button", { name: /^Sign in as/ }).click();
};

// Pictures of every page, and what axe-core says of them.

const shoot = async (page, name, scheme) => {
  await page.emulateMedia({ colorScheme: scheme });
  for (const width of [360, 1440]) {
    await page.setViewportSize({ width, height: width === 360 ? 740 : 900 });
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) complain(`${name} is ${over} pixels wider than a screen of ${width}`);
    if (order.shots) await page.screenshot({ path: join(order.shots, `${name}-${width}-${scheme}.png`), fullPage: true });
  }
  const found = await page.evaluate(`${axe}; axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })`);
  for (const v of found.violations) {
    complain(`axe: ${name} ${scheme}: ${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(" | ")}`);
  }
};

const look = async (page, name, path) => {
  if (path) await open(page, path);
  for (const scheme of ["light", "dark"]) await shoot(page, name, scheme);
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 900 });
};

const first = async (page, path, selector) => {
  await open(page, path);
  return page.locator(selector).first().getAttribute("href");
};

const fill = async (page, section, reason, fields = {}) => {
  const form = page.locator("section, details", { has: page.getByRole("button", { name: section }) }).last();
  await form.getByLabel("Reason").fill(reason);
  for (const [label, text] of Object.entries(fields)) await form.getByLabel(label).fill(text);
  await form.getByRole("button", { name: section }).click();
};

// jobs does everything that an administrator can do.
const jobs = async (page, who, mode) => {
  const at = (job) => `${job} (${mode})`;

  await open(page, "/keys/rotate");
  await page.getByLabel("Nothing: force it").check();
  await fill(page, "Rotate now", `rotation ${mode}`);
  await expectText(page, "Rotated. No session ends.", at("rotate"));

  await page.reload();
  await expectText(page, "Rotated. No session ends.", at("rotate, reloaded"));
  const previous = await page.locator("tr:has(.previous) th.kid").first().innerText();
  await open(page, `/keys/${previous}/revoke`);
  await fill(page, "Revoke this key now", `leak ${mode}`, { "Type the first characters": "wrong123" });
  await expectText(page, "Not done.", at("a wrong kid"));
  if ((await page.getByLabel("Reason").inputValue()) !== `leak ${mode}`) complain(at("the reason got lost"));
  await fill(page, "Revoke this key now", `leak ${mode}`, { "Type the first characters": previous.slice(0, 8) });
  await expectText(page, "Within two seconds the key leaves the JWKS", at("revoke"));
  await expectText(page, "A key has leaked", at("the bar of the incident"));
  if (mode === "scripts") {
    await look(page, "revoked");
    await look(page, "incident", "/keys");
  }
  await open(page, "/users");
  await expectText(page, "A key has leaked", at("the bar on every page"));

  await page.goto(order.base + (await first(page, `/logins?user=${mode === "scripts" ? "grace" : "ada"}&active=true`, "tbody a")));
  await fill(page, "End it", `one login ${mode}`);
  await expectText(page, "Refresh tokens are dead", at("end a login"));
  await open(page, `/logins?user=${mode === "scripts" ? "mary" : "ada"}`);
  await fill(page, "End the logins", `many logins ${mode}`);
  await expectText(page, "Refresh tokens are dead", at("end many logins"));

  await open(page, "/clients/app");
  await page.locator("section", { hasText: "Give it a new secret" }).getByLabel(/The old secret works for/).fill("soon");
  await fill(page, "Make a new secret", `secret ${mode}`);
  await expectText(page, "is not a duration", at("a bad duration"));
  await page.locator("section", { hasText: "Give it a new secret" }).getByLabel(/The old secret works for/).fill("0s");
  await fill(page, "Make a new secret", `secret ${mode}`);
  await expectText(page, "Keep it now", at("a new secret"));
  if (mode === "scripts") await look(page, "new-secret");
  await open(page, "/clients/spa");
  await fill(page, "Disable", `client ${mode}`);
  await expectText(page, "The client is disabled.", at("disable a client"));
  await fill(page, "Enable", `client ${mode}`);
  await expectText(page, "The client is enabled.", at("enable a client"));

  await open(page, "/users/grace");
  await fill(page, "Change the roles", `roles ${mode}`, { Roles: `staff ${mode}` });
  await expectText(page, `staff ${mode}`, at("roles"));
  await fill(page, "Unlock", `unlock ${mode}`);
  await expectText(page, "The user is unlocked", at("unlock"));
  await fill(page, "Disable", `user ${mode}`);
  await expectText(page, "The user is disabled.", at("disable a user"));
  await fill(page, "Enable", `user ${mode}`);
  await expectText(page, "The user is enabled", at("enable a user"));

  await open(page, "/audit");
  await page.getByLabel("Type").selectOption("key.revoke");
  await page.getByRole("button", { name: "Filter" }).click();
  await expectText(page, `leak ${mode}`, at("filter the audit trail"));
  await page.getByRole("button", { name: "Verify the chain" }).click();
  await expectText(page, "all unchanged", at("verify the audit trail"));
  const download = page.waitForEvent("download");
  await page.getByRole("link", { name: "Export everything" }).click();
  const lines = readFileSync(await (await download).path(), "utf8").trim().split("\n");
  if (lines.length < 20 || !JSON.parse(lines[0]).hash) complain(at("the export is not the trail"));

  await open(page, "/admins");
  const victim = order.victims[mode];
  for (const [button, text] of [["End the sessions", "All sessions of that administrator have ended."], [`Disable ${victim}`, "is disabled"], [`Delete ${victim}`, "is deleted"]]) {
    await page.locator("summary", { hasText: new RegExp(`^${victim}$`) }).click();
    const form = page.locator("details[open]");
    await form.getByLabel("Reason").fill(`victim ${mode}`);
    await form.getByRole("button", { name: button }).click();
    await expectText(page, text, at(button));
  }
};

// With scripts.

const alice = await visitor("scripts", {});
const cdp = await alice.context().newCDPSession(alice);
await cdp.send("WebAuthn.enable");
await cdp.send("WebAuthn.addVirtualAuthenticator", {
  options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
});
await look(alice, "sign-in", "/sign-in");
await alice.goto(order.links.alice);
await look(alice, "enter");
await alice.getByRole("button", { name: "Sign in as alice" }).click();
await expectText(alice, "You have no passkey yet", "first entry");
const visited = (await cdp.send("Page.getNavigationHistory")).entries.map((e) => e.url).join(" ");
if (visited.includes(order.links.alice.split("/").pop())) complain(`the token of the link is in the history: ${visited}`);
await alice.getByLabel("Name of the new passkey").fill("virtual key");
await alice.getByRole("button", { name: "Register a passkey" }).click();
await alice.getByText("The passkey is registered").waitFor();
await alice.getByRole("button", { name: "Sign out", exact: true }).click();
await expectText(alice, "You are signed out.", "sign out");
await open(alice, "/keys/rotate");
if (!alice.url().includes("/sign-in?next=")) complain(`signed out, but at ${alice.url()}`);
await alice.getByRole("button", { name: "Sign in with a passkey" }).click();
await alice.getByRole("heading", { name: "Rotate" }).first().waitFor();
if (!alice.url().endsWith("/keys/rotate")) complain(`the sign-in goes to ${alice.url()}`);

if (order.shots) mkdirSync(order.shots, { recursive: true });
await look(alice, "keys", "/keys");
await look(alice, "rotate", "/keys/rotate");
await look(alice, "revoke", await first(alice, "/keys", "tr:has(.current) td a[href$=revoke]"));
await look(alice, "logins", "/logins");
await look(alice, "login", await first(alice, "/logins", "tbody a"));
await look(alice, "clients", "/clients");
await look(alice, "client", "/clients/app");
await look(alice, "users", "/users");
await look(alice, "user", "/users/ada");
await look(alice, "verifiers", "/verifiers");
await look(alice, "probe", "/probe-reports/api");
await look(alice, "audit", "/audit");
await look(alice, "admins", "/admins");
await look(alice, "not-found", "/nothing");

// The page of the keys follows what happens, and only then.
await open(alice, "/keys");
const before = await alice.locator("table").first().innerText();
await alice.waitForFunction(() => document.getElementById("live").textContent.includes("follows"), null, { timeout: 15000 });
if ((await alice.locator("table").first().innerText()) !== before) complain("the page has changed without a reason");

// Other pages say that the keys have changed, and keep what is typed.
await open(alice, "/users/ada");
const other = await alice.context().newPage();
await open(other, "/keys/rotate");
await other.getByLabel("Nothing: force it").check();
await fill(other, "Rotate now", "rotation elsewhere");
await alice.getByText("The keys have changed since this page was opened").waitFor();
await other.close();

await jobs(alice, "alice", "scripts");

// The keyboard reaches everything: from the top of a page, Tab comes to the button of its last form.
await open(alice, "/users/grace");
const reached = new Set();
for (let i = 0; i < 60; i++) {
  await alice.keyboard.press("Tab");
  const [name, visible] = await alice.evaluate(() => {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    const name = e === document.body ? "" : (e.textContent.trim() || e.name || e.tagName).slice(0, 60);
    return [name, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
  });
  if (!visible && name !== "") complain(`the focus on ${name} cannot be seen`);
  reached.add(name);
}
for (const name of ["Skip to the content", "Keys", "Sign out", "Change the roles", "Disable", "Unlock"]) {
  if (!reached.has(name)) complain(`Tab does not reach ${name}`);
}

await open(alice, "/admins");
await alice.getByRole("button", { name: "Remove virtual key" }).click();
await expectText(alice, "The passkey is removed.", "remove a passkey");
await alice.getByRole("button", { name: "Sign out everywhere" }).click();
await expectText(alice, "All your sessions have ended.", "sign out everywhere");

// Without scripts.

const bob = await visitor("no scripts", { javaScriptEnabled: false });
await enter(bob, order.links.bob);
await expectText(bob, "bob · key-operator", "first entry without scripts");
await jobs(bob, "bob", "plain");
await bob.getByRole("button", { name: "Sign out everywhere" }).click();
await expectText(bob, "All your sessions have ended.", "sign out everywhere without scripts");

// A viewer sees everything and is offered nothing.

const carol = await visitor("viewer", {});
await enter(carol, order.links.carol);
for (const path of ["/keys", "/keys/rotate", "/clients/app", "/users/ada", "/logins", "/admins", "/audit"]) {
  await open(carol, path);
  const buttons = await carol.locator("main button").allInnerTexts();
  const offered = buttons.filter((b) => !/Filter|Verify|Register|Sign out/.test(b));
  if (offered.length > 0) complain(`a viewer is offered ${offered} at ${path}`);
}

await browser.close();
console.log(problems.length === 0 ? "every job done" : `${problems.length} problems`);
process.exit(problems.length === 0 ? 0 : 1);
