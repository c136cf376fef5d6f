// The frame of the page: navigation, the connection, signing in, and which view is shown.

import { follow, get, post, remove } from "./api.js";
import { h, icon, mount, svg } from "./dom.js";
import { button, failure, field, link, empty, note, skeleton } from "./parts.js";

const NAVIGATION = [
  ["adapters", "Adapters", "adapters"],
  ["playground", "Playground", "playground"],
  ["train", "Train", "train"],
  ["feedback", "Feedback", "feedback"],
  ["activity", "Activity", "activity"],
];

/** Which module shows a path, and the names in it. */
function resolve(path) {
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const [first = "adapters", name, what, ...rest] = parts;
  if (first === "adapters" && what === "compare") return ["./compare.js", { name, before: rest[0], after: rest[1] }];
  if (first === "adapters" && name) return ["./adapter.js", { name }];
  if (first === "train") return ["./train.js", { job: name }];
  if (NAVIGATION.some(([known]) => known === first)) return [`./${first}.js`, {}];
  return [null, {}];
}

const root = new URL(document.baseURI).pathname;
const main = h("main", { class: "page", id: "main", tabindex: -1 });
const connection = h("span", { class: "state", role: "status" }, "Connected");
const banner = h("div", { class: "banner", role: "alert", hidden: true }, "The connection to the server is lost. What you see may be old; it is tried again by itself.");
const navigation = h("nav", { "aria-label": "Views" });
const baseName = h("span", { class: "clip base" });
let session = null;
let current = null;
let stopFollowing = null;

function drawFrame() {
  const brand = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: "M20 12a8 8 0 1 1-3-6.2" }), svg("circle", { cx: 18.6, cy: 6.6, r: 1.2 }));
  mount(document.body,
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, "Skip to content"),
    h("div", { class: "frame" },
      h("header", { class: "side" },
        h("a", { class: "brand", href: "adapters" }, brand, "Ouroboros"),
        navigation,
        h("div", { class: "foot" },
          baseName,
          h("div", { class: "row" }, connection, h("span", { class: "grow" }),
            h("button", { class: "button quiet icon-only", type: "button", "aria-label": "Switch between light and dark", title: "Light or dark", onclick: switchTheme }, icon("theme"))),
          session.keyless ? null : button("Sign out", async () => { await remove("v1/session"); location.reload(); }, { kind: "quiet small-button" }))),
      h("div", { class: "grow" }, banner, main)));
}

function drawNavigation(path) {
  const active = path.split("/")[0] || "adapters";
  mount(navigation, NAVIGATION.map(([target, label, name]) => h("a", { href: target, "aria-current": active === target ? "page" : null, "data-key": target }, icon(name), h("span", null, label))));
}

/** Show what the address names. Each view gets its own element, and is told when to stop. */
async function show({ focus = true } = {}) {
  const path = location.pathname.slice(root.length);
  const [module, params] = resolve(path);
  current?.stop.abort();
  const view = {
    path, params, session, query: new URLSearchParams(location.search), stop: new AbortController(), onChange: null,
    main: h("div", { class: "inner" }),
    go, setQuery,
    title(words) { document.title = `${words} · Ouroboros`; },
    can: (scope) => session.scopes.includes(scope),
  };
  current = view;
  drawNavigation(path);
  mount(view.main, skeleton());
  mount(main, view.main);
  if (focus) { main.focus({ preventScroll: true }); scrollTo(0, 0); }
  if (!module) {
    view.title("Not found");
    mount(view.main, h("h1", { class: "visually-hidden" }, "Not found"), empty("search", "There is no such page", "The address may be old or mistyped.", link("adapters", "See all adapters", "button primary")));
    return;
  }
  try {
    const { show: showView } = await import(module);
    if (current === view) await showView(view);
  } catch (error) {
    if (error.name === "AbortError" || current !== view) return;
    if (error.status === undefined) console.error(error);
    view.title("Error");
    mount(view.main, h("h1", { class: "visually-hidden" }, "Error"), failure(error, () => show()));
    if (error.status === 0) view.onChange = () => show({ focus: false });
  }
}

function go(path) {
  history.pushState(null, "", new URL(path, document.baseURI));
  return show();
}

/** Change the address's query without a new entry in the history. */
function setQuery(changes) {
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value) address.searchParams.set(name, value);
    else address.searchParams.delete(name);
  }
  history.replaceState(null, "", address);
}

function switchTheme() {
  const dark = document.documentElement.classList.contains("dark") || (!document.documentElement.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  setTheme(dark ? "light" : "dark");
}

function setTheme(theme) {
  document.documentElement.classList.remove("light", "dark");
  if (theme) document.documentElement.classList.add(theme);
  try { localStorage.setItem("theme", theme ?? ""); } catch { /* a private window keeps nothing */ }
}

function setConnected(connected) {
  connection.textContent = connected ? "Connected" : "Reconnecting";
  connection.classList.toggle("lost", !connected);
  banner.hidden = connected;
}

// Changes come in bursts while a training runs: a view reads them once for each burst.
let waiting = null;
let changes = new Set();

function announce(names) {
  changes = changes.union(names);
  waiting ??= setTimeout(async () => {
    const [batch, view] = [changes, current];
    waiting = null;
    changes = new Set();
    try {
      await view?.onChange?.(batch);
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 0) console.error(error);
    }
  }, 150);
}

function drawSignIn(trouble) {
  stopFollowing?.();
  document.title = "Sign in · Ouroboros";
  const input = h("input", { class: "input mono", type: "password", name: "key", required: true, autocomplete: "current-password", placeholder: "ouro_…" });
  const form = h("form", {
    class: "panel",
    onsubmit: async (event) => {
      event.preventDefault();
      try {
        await post("v1/session", { key: input.value });
        await start();
      } catch (error) {
        drawSignIn(error);
      }
    },
  },
  h("h1", null, "Sign in"), h("p", { class: "dim" }, "This server needs a key. Whoever runs it creates one with “ouroboros keys create”."),
  trouble && note("bad", "That did not work", trouble.message), field("Key", input), h("button", { class: "button primary", type: "submit" }, "Sign in"));
  mount(document.body, h("main", { class: "signin" }, form));
  input.focus();
}

async function start() {
  // The view's module is fetched while the session is.
  const [module] = resolve(location.pathname.slice(root.length));
  if (module) import(module).catch(() => {});
  try {
    session = await get("v1/session");
  } catch (error) {
    if (error.status === 401) { drawSignIn(); return; }
    mount(document.body, h("main", { class: "page" }, h("h1", { class: "visually-hidden" }, "Ouroboros"), failure(error, start)));
    return;
  }
  drawFrame();
  stopFollowing?.();
  stopFollowing = follow(announce, setConnected);
  await show({ focus: false });
  get("v1/models").then(({ data }) => { baseName.textContent = `on ${data[0].id}`; baseName.title = data[0].id; }, () => {});
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[href]");
  if (!anchor || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const target = new URL(anchor.href);
  if (target.origin !== location.origin || anchor.hasAttribute("download") || anchor.target || !target.pathname.startsWith(root) || target.pathname.startsWith(`${root}v1/`)) return;
  event.preventDefault();
  history.pushState(null, "", target);
  show();
});
window.addEventListener("popstate", () => show());
window.addEventListener("signin", () => { if (session && !session.keyless) { session = null; drawSignIn(); } });
try { setTheme(localStorage.getItem("theme") || null); } catch { /* the system's choice then */ }
start();
