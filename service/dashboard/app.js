// The page: who is signed in, which view is shown, and what is asked for again and again.

import { get, post } from "./api.js";
import { h, link, problem, put, renew } from "./dom.js";
import { login } from "./views/login.js";
import { overview } from "./views/overview.js";
import { usage } from "./views/usage.js";
import { customer, customers } from "./views/customers.js";
import { invoice, invoices } from "./views/invoices.js";
import { quarantine } from "./views/quarantine.js";
import { event } from "./views/events.js";
import { pipeline } from "./views/pipeline.js";

const SECTIONS = [
  ["", "Overview", overview],
  ["usage", "Usage", usage],
  ["customers", "Customers", customers],
  ["invoices", "Invoices", invoices],
  ["events", "Events", event],
  ["quarantine", "Quarantine", quarantine],
  ["pipeline", "Pipeline", pipeline],
];
const DETAILS = { customers: customer, invoices: invoice, events: event };

const main = document.getElementById("main");
const state = { session: null, catalog: null, view: null, number: 0, paused: false, watching: 0 };

// Calls `work` now and every `seconds` while the page is seen and not paused; the view that
// asked ends it.
function every(view, seconds, work) {
  let first = true;
  const round = async () => {
    if (view.ended) return;
    if (first || !(document.hidden || state.paused)) {
      first = false;
      try {
        await work();
        view.failed(null, work);
      } catch (error) {
        if (error.status === 401) return signedOut();
        view.failed(error, work);
      }
    }
    if (!view.ended) view.timers.add(setTimeout(round, seconds * 1000));
  };
  return round();
}

function open(show, args) {
  if (state.view) state.view.end();
  const notes = h("div", { role: "alert" });
  const failures = new Map();
  const body = h("div", { class: "grid" });
  const heading = h("div", { class: "head" });
  const view = {
    args,
    catalog: state.catalog,
    session: state.session,
    body,
    timers: new Set(),
    closers: [],
    ended: false,
    head(...parts) {
      put(heading, ...parts);
    },
    every(seconds, work) {
      return every(view, seconds, work);
    },
    async once(work) {
      try {
        await work();
        view.failed(null);
      } catch (error) {
        if (error.status === 401) signedOut();
        else if (!view.ended) view.failed(error);
      }
    },
    // One note for each thing that fails, until it works again.
    failed(error, what = view) {
      if (error) failures.set(what, error.message);
      else failures.delete(what);
      renew(notes, [...new Set(failures.values())].map((message) => problem({ message })));
    },
    own(closer) {
      view.closers.push(closer);
      return closer;
    },
    end() {
      view.ended = true;
      view.timers.forEach(clearTimeout);
      view.closers.forEach((each) => each.close());
    },
  };
  state.view = view;
  put(main, heading, notes, body);
  show(view);
}

function route() {
  if (!state.session) return;
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const section = SECTIONS.find(([name]) => name === (parts[0] || "")) || SECTIONS[0];
  const show = parts.length > 1 && DETAILS[parts[0]] ? DETAILS[parts[0]] : section[2];
  document.title = `${section[1]} · Beammeter`;
  for (const each of document.querySelectorAll("#nav a")) {
    const here = each.dataset.section === section[0];
    if (here) {
      each.setAttribute("aria-current", "page");
      each.scrollIntoView({ inline: "center", block: "nearest" });
    } else each.removeAttribute("aria-current");
  }
  open(show, { id: parts.slice(1).join("/"), query: new URLSearchParams(query) });
  if (state.number++) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function signedIn() {
  [state.session, state.catalog] = await Promise.all([get("/dashboard/session"), get("/v1/catalog")]);
  document.getElementById("top").hidden = false;
  put(document.getElementById("tenant"), state.session.tenant);
  put(
    document.getElementById("nav"),
    SECTIONS.map(([name, text]) => link(`/${name}`, text, { "data-section": name })),
  );
  route();
  watch();
}

function signedOut() {
  if (state.view) state.view.end();
  state.session = state.view = null;
  document.getElementById("top").hidden = true;
  document.title = "Sign in · Beammeter";
  put(main, login(async (key) => {
    await post("/dashboard/login", { key });
    await signedIn();
  }));
}

// The state of the pipeline, in the corner of every page.
async function watch() {
  clearTimeout(state.watching);
  if (!state.session) return;
  const pill = document.getElementById("pill");
  try {
    if (!document.hidden && !state.paused) {
      const status = await get("/v1/status");
      const bad = status.checks.filter((each) => !each.ok);
      const text = bad.length ? `${bad[0].name}: ${bad[0].detail}` : "Pipeline works";
      if (pill.textContent !== text) put(pill, h("span", {}, text));
      pill.title = text;
      pill.className = `pill ${bad.length ? "bad" : "ok"}`;
    }
  } catch (error) {
    if (error.status === 401) return signedOut();
    put(pill, h("span", {}, error.message));
    pill.className = "pill bad";
  }
  state.watching = setTimeout(watch, 5000);
}

const THEME = "beammeter-theme";

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  document.dispatchEvent(new Event("themechange"));
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const next = dark ? "light" : "dark";
  localStorage.setItem(THEME, next);
  theme(next);
});
// What changes by itself can be stopped (WCAG 2.2.2).
document.getElementById("pause").addEventListener("click", (event) => {
  state.paused = !state.paused;
  event.currentTarget.setAttribute("aria-pressed", String(state.paused));
});
document.getElementById("leave").addEventListener("click", async () => {
  await post("/dashboard/logout");
  signedOut();
});
addEventListener("hashchange", route);
theme(localStorage.getItem(THEME));
signedIn().catch((error) => (error.status === 401 ? signedOut() : put(main, problem(error))));
