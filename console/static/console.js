// Every job works without this script, except those of passkeys, which browsers offer only to scripts.
"use strict";

(() => {
  const body = document.body;
  const token = body.dataset.token;

  const post = async (path, data) => {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-Keyturn-Form-Token": token || "" },
      body: JSON.stringify(data),
    });
    const text = await answer.json().catch(() => null);
    if (!answer.ok || !text) {
      throw new Error((text && text.detail) || "The server has refused: open the page again.");
    }
    return text;
  };

  // Passkeys.

  const supported = window.PublicKeyCredential && PublicKeyCredential.parseCreationOptionsFromJSON;

  const run = (form, work) => {
    const said = form.querySelector("[role=alert]");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      said.textContent = "";
      const button = form.querySelector("button");
      button.disabled = true;
      try {
        if (!supported) {
          throw new Error("This browser is too old for passkeys.");
        }
        location.assign((await work(form)).next);
      } catch (error) {
        said.textContent = error.name === "NotAllowedError" ? "Cancelled, or no passkey for this address." : error.message;
        button.disabled = false;
      }
    });
    form.hidden = false;
  };

  for (const form of document.querySelectorAll("form[data-passkey=sign-in]")) {
    run(form, async () => {
      const begun = await post("/sign-in/options", {});
      const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(begun.options);
      const credential = await navigator.credentials.get({ publicKey });
      return post("/sign-in/passkey", { ceremony: begun.ceremony, credential, next: form.dataset.next });
    });
  }

  for (const form of document.querySelectorAll("form[data-passkey=register]")) {
    run(form, async () => {
      const begun = await post("/passkeys/options", {});
      const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(begun.options);
      const credential = await navigator.credentials.create({ publicKey });
      return post("/passkeys", { ceremony: begun.ceremony, credential, label: form.elements.label.value });
    });
  }

  // Somebody who types is not idle: the session stays alive, so that no time limit ends the work.

  let kept = Date.now();
  document.addEventListener("input", () => {
    if (token && Date.now() - kept > 60000) {
      kept = Date.now();
      fetch("/live").catch(() => {});
    }
  });

  // Clocks.

  const span = (seconds) => {
    const two = (n) => String(n).padStart(2, "0");
    const s = Math.abs(Math.round(seconds));
    return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  };
  const clocks = document.querySelectorAll("time[data-clock]");
  const tick = () => {
    for (const clock of clocks) {
      const left = (Date.parse(clock.dateTime) - Date.now()) / 1000;
      const text = clock.dataset.clock === "since" ? `${span(left)} ago` : left > 0 ? `in ${span(left)}` : "now";
      if (clock.textContent !== text) {
        clock.textContent = text;
      }
    }
  };
  if (clocks.length > 0) {
    tick();
    setInterval(tick, 1000);
  }

  // What is new. These requests do not keep the session alive, and they never reload a form that somebody fills in. Only
  // the page of the keys follows by itself: others say that the keys have changed.

  const { live, version } = body.dataset;
  const line = document.getElementById("live");
  if (line) {
    if (new URLSearchParams(location.search).has("live")) {
      history.replaceState(null, "", location.pathname);
    }
    const say = (text) => {
      if (line.textContent !== text) {
        line.textContent = text;
      }
    };
    const timer = setInterval(async () => {
      if (document.hidden) {
        return;
      }
      const query = live ? "/live?live&keys" : "/live?live";
      const answer = await fetch(query, { headers: { Accept: "application/json" } }).catch(() => null);
      if (answer && answer.status === 401) {
        say("You are signed out: reload the page to sign in.");
        clearInterval(timer);
        return;
      }
      const now = answer && answer.ok ? await answer.json().catch(() => null) : null;
      if (!now) {
        say("The server does not answer: this page may be out of date.");
      } else if (!live) {
        say(now.version === version ? "" : "The keys have changed since this page was opened: reload it.");
      } else if (now.live === live) {
        say("This page follows what happens.");
      } else if (document.activeElement && document.activeElement.closest("form")) {
        say("Something has changed: this page shows it once you leave the form.");
      } else {
        location.replace(location.pathname + "?live");
      }
    }, 5000);
  }
})();
