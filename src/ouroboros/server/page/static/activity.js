// What the server does now, what waits and for what, how it has been; keys and the audit log for an admin.

import { get, part } from "./api.js";
import { count, duration, h, integer, mount, when } from "./dom.js";
import { jobBadge } from "./train.js";
import { adapterPath, badge, empty, facts, head, link, note, panel } from "./parts.js";

export async function show(view) {
  view.title("Activity");
  const body = h("div", { class: "stack" });
  const administration = h("div", { class: "stack" });

  async function load() {
    const [activity, ready] = await Promise.all([get("v1/activity", view.stop.signal), readReadiness()]);
    draw(activity, ready);
  }

  async function readReadiness() {
    const response = await fetch(new URL("ready", document.baseURI), { signal: view.stop.signal });
    return response.json();
  }

  function draw({ answers, jobs, trainings, pending, metrics, draining }, { checks }) {
    const broken = Object.entries(checks).filter(([, result]) => result !== "ok");
    const waiting = [
      ...jobs.filter((job) => job.waiting_for || job.status === "running").map((job) => ({ key: job.id, name: link(`train/${part(job.id)}`, `Training of ${job.adapter}`, "name"), state: jobBadge(job), why: job.waiting_for ?? (job.steps ? `Step ${integer(job.step)} of ${integer(job.steps)}.${job.note ? ` ${job.note}` : ""}` : "It is being prepared, or judged by the gate.") })),
      ...trainings.map((training) => ({ key: training.id, name: link(adapterPath(training.adapter), `Training of ${training.adapter}`, "name"), state: badge(training.state), why: training.reason || (training.steps ? `Step ${training.step} of ${training.steps}, started on the command line.` : "Started on the command line; it waits for its turn.") })),
      ...pending.map((item) => ({ key: item.adapter, name: link(adapterPath(item.adapter), item.adapter, "name"), state: badge("learning", "accent"), why: `${count(item.judgements, "judgement")} to be learned, together, as soon as answers leave room.` })),
    ];
    const total = Math.max(1, metrics.requests);
    const mean = metrics.requests ? metrics.seconds / metrics.requests : 0;
    const bars = metrics.buckets.map(([bound, below], i) => [bound, below - (i ? metrics.buckets[i - 1][1] : 0)]).filter(([, number]) => number);
    const most = Math.max(1, ...bars.map(([, number]) => number));
    mount(body,
      broken.length || draining ? note("warn", draining ? "The server is shutting down" : "The server does not take work", broken.map(([name, result]) => `${name}: ${result}`).join("\n")) : null,
      h("div", { class: "panel" }, facts([
        ["State", broken.length ? "not ready" : "ready", "model and store"],
        ["Answers now", integer(answers.active), `of ${integer(answers.limit)} at most`],
        ["Requests", integer(metrics.requests), `${integer(metrics.statuses["5xx"] ?? 0)} failed`],
        ["Mean time", metrics.requests ? duration(mean) : "–", "of a request"],
        ["Tokens", integer((metrics.tokens.prompt ?? 0) + (metrics.tokens.completion ?? 0)), `${integer(metrics.tokens.completion ?? 0)} written`],
      ])),
      panel("What is going on", null, waiting.length ? h("table", { class: "table cards" }, h("thead", null, h("tr", null, ["What", "State", "Why"].map((label) => h("th", { scope: "col" }, label)))), h("tbody", null, waiting.map((item) => h("tr", null, h("td", null, item.name), h("td", null, item.state), h("td", { class: "text wide" }, item.why))))) : empty("activity", "Nothing waits", "Trainings and judgements that are being learned appear here, with what they wait for.")),
      h("div", { class: "split" },
        panel("Requests by outcome", h("span", { class: "dim small" }, "since the start"), h("div", { class: "body" }, h("ul", { class: "bars" }, Object.entries(metrics.statuses).map(([status, number]) => h("li", null, h("span", null, { "0xx": "client left", "2xx": "answered", "3xx": "unchanged", "4xx": "refused", "5xx": "failed" }[status] ?? status), h("progress", { class: "progress", max: total, value: number, "aria-label": `${number} requests` }), h("span", { class: "num dim" }, integer(number))))))),
        panel("Time of a request", h("span", { class: "dim small" }, "since the start"), h("div", { class: "body" }, h("ul", { class: "bars" }, bars.map(([bound, number]) => h("li", null, h("span", { class: "num" }, `up to ${bound < 1 ? `${bound * 1000} ms` : `${bound} s`}`), h("progress", { class: "progress", max: most, value: number, "aria-label": `${number} requests` }), h("span", { class: "num dim" }, integer(number)))))))));
  }

  async function loadAdministration() {
    if (!view.can("admin")) return;
    const [keys, audit] = await Promise.all([get("v1/keys", view.stop.signal), get("v1/audit?limit=30", view.stop.signal)]);
    mount(administration,
      panel("Keys", null, keys.data.length ? h("div", { class: "scroll" }, h("table", { class: "table" }, h("thead", null, h("tr", null, ["Name", "Begins with", "May", "Adapters", "Expires"].map((label) => h("th", { scope: "col" }, label)))), h("tbody", null, keys.data.map((key) => h("tr", null, h("td", null, h("span", { class: "name" }, key.name), h("div", { class: "dim small" }, key.tenant || "no tenant")), h("td", { class: "mono" }, `${key.prefix}…`), h("td", null, h("span", { class: "row" }, key.scopes.map((scope) => badge(scope, scope === "admin" ? "warn" : "")))), h("td", { class: "mono" }, key.adapters.join(", ")), h("td", null, key.expires_at ? when(key.expires_at) : h("span", { class: "dim" }, "never"))))))) : h("div", { class: "body dim" }, "There is no key: only programs and browsers on this machine may call. Create one with “ouroboros keys create NAME”.")),
      panel("Who changed what", h("span", { class: "dim small" }, "newest first"), audit.data.length ? h("div", { class: "scroll" }, h("table", { class: "table" }, h("thead", null, h("tr", null, ["When", "Who", "What", "Of"].map((label) => h("th", { scope: "col" }, label)))), h("tbody", null, audit.data.map((entry) => h("tr", null, h("td", null, when(entry.at)), h("td", { class: "mono" }, entry.actor), h("td", null, entry.action), h("td", { class: "mono text" }, entry.target)))))) : h("div", { class: "body dim" }, "Nothing was changed yet.")));
  }

  await Promise.all([load(), loadAdministration()]);
  mount(view.main, head({ title: "Activity", lead: "What the server does now, what waits, and why." }), body, administration);
  const timer = setInterval(() => { if (!document.hidden) load().catch(() => {}); }, 5000);
  view.stop.signal.addEventListener("abort", () => clearInterval(timer));
  view.onChange = () => load();
}
