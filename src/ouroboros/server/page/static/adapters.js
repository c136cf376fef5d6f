// All adapters: what each knows, how that went, and what waits to be learned.

import { get, post } from "./api.js";
import { bytes, count, h, icon, mount, when } from "./dom.js";
import { sparkline } from "./chart.js";
import { adapterPath, ask, askPath, badge, button, empty, failure, field, head, interval, link, note } from "./parts.js";

const MERGES = [["task_arithmetic", "Task arithmetic: add the updates"], ["average", "Average of the updates"], ["tsv", "TSV: keep each one's directions apart"], ["ties", "TIES: keep what agrees"], ["dare_ties", "DARE and TIES"]];

export async function show(view) {
  view.title("Adapters");
  const selected = new Set();
  const state = { search: view.query.get("q") ?? "", matches: null, pages: [""], list: null };
  const body = h("div");
  const tools = h("div", { class: "row" });
  const search = h("input", {
    class: "input", type: "search", "aria-label": "Find adapters by name or by a prompt", placeholder: "Find by name, or by a prompt…", value: state.search,
    oninput: () => { state.search = search.value.trim(); view.setQuery({ q: state.search }); findSoon(); },
  });
  let timer = null;
  const findSoon = () => { clearTimeout(timer); timer = setTimeout(find, 250); };
  view.stop.signal.addEventListener("abort", () => clearTimeout(timer));

  async function find() {
    const asked = state.search;
    state.matches = null;
    draw();
    if (asked.length < 4) return;
    try {
      const { data } = await post("v1/adapters/find", { text: asked, k: 20 }, { signal: view.stop.signal });
      if (asked === state.search) state.matches = data;
    } catch (error) {
      if (error.name === "AbortError") return;
      state.matches = [];
    }
    draw();
  }

  async function load() {
    const lists = [];
    for (const after of state.pages) lists.push(await get(`v1/overview?limit=50&after=${encodeURIComponent(after)}`, view.stop.signal));
    state.list = { ...lists.at(-1), data: lists.flatMap((list) => list.data) };
    for (const name of [...selected]) if (!state.list.data.some((a) => a.id === name)) selected.delete(name);
    draw();
  }

  const create = () => ask({
    title: "New adapter",
    words: "Its first version answers as the base model does, until it is trained or corrected.",
    fields: [
      field("Name", h("input", { class: "input", name: "name", required: true, maxlength: 128, autocomplete: "off", placeholder: "tickets" }), "Letters, digits and - _ . /"),
      field("What it is for", h("input", { class: "input", name: "description", maxlength: 300, autocomplete: "off", placeholder: "Sends a customer's message to a team" }), "Prompts are routed by this until it has learned."),
    ],
    action: "Create",
    submit: async ({ name, description }) => {
      await post("v1/adapters", { name, description });
      await view.go(adapterPath(name));
    },
  });

  const merge = () => ask({
    title: `Merge ${count(selected.size, "adapter")}`,
    words: `${[...selected].join(", ")} stay as they are. The new adapter is tested on what each of them knows, and refused if it forgot too much.`,
    fields: [
      field("Name of the new adapter", h("input", { class: "input", name: "name", required: true, maxlength: 128, autocomplete: "off" })),
      field("How", h("select", { class: "input", name: "strategy" }, MERGES.map(([value, label]) => h("option", { value }, label)))),
    ],
    action: "Merge",
    submit: async ({ name, strategy }) => {
      const report = await post("v1/adapters/merge", { adapters: [...selected], name, strategy });
      await view.go(adapterPath(report.id));
    },
  });

  const choose = (name, on) => { if (on) selected.add(name); else selected.delete(name); drawTools(); };

  function drawTools() {
    mount(tools,
      selected.size > 1 && view.can("train") ? button([icon("merge"), `Merge ${selected.size}`], merge, { key: "merge" }) : null,
      view.can("train") ? button([icon("plus"), "New adapter"], create, { kind: "primary", key: "new" }) : null);
  }

  function draw() {
    if (!state.list) return;
    drawTools();
    const words = state.search.toLowerCase();
    const near = new Map((state.matches ?? []).map((match) => [match.id, match]));
    const rows = state.list.data.filter((a) => !words || a.id.toLowerCase().includes(words) || a.description.toLowerCase().includes(words) || near.has(a.id));
    if (words) rows.sort((a, b) => (near.get(b.id)?.similarity ?? 0) - (near.get(a.id)?.similarity ?? 0));
    if (!state.list.data.length) {
      mount(body, h("div", { class: "panel" }, empty("adapters", "No adapters yet", "An adapter holds one task. Create one and correct its answers, or train it on a file of examples.",
        view.can("train") ? button("Create an adapter", create, { kind: "primary" }) : null, link("train", "Train on a file"))));
      return;
    }
    mount(body, h("div", { class: "panel" },
      rows.length ? h("table", { class: "table cards" },
        h("thead", null, h("tr", null, h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Select")), ["Adapter", "Served", "On its probes", "Trend", "Size", "Last change", "Waiting"].map((label) => h("th", { scope: "col" }, label)))),
        h("tbody", null, rows.map((a) => h("tr", null,
          h("td", null, h("input", { type: "checkbox", class: "checkbox", "aria-label": `Select ${a.id}`, checked: selected.has(a.id), "data-key": `select ${a.id}`, onchange: (event) => choose(a.id, event.target.checked) })),
          h("td", { class: "wide" }, h("div", { class: "stack" }, h("div", null, h("a", { class: "name", href: adapterPath(a.id), "data-key": a.id }, a.id), near.has(a.id) ? [" ", badge(near.get(a.id).sure ? "answers this prompt" : "near", near.get(a.id).sure ? "accent" : "")] : null, h("div", { class: "dim small" }, a.description || " ")))),
          h("td", { "data-label": "Served" }, h("span", { class: "num" }, `@${a.head}`), h("div", { class: "dim small nowrap" }, a.refused ? `${a.versions} versions, ${a.refused} refused` : count(a.versions, "version"))),
          h("td", { "data-label": "On its probes" }, interval(a.accuracy)),
          h("td", { "data-label": "Trend" }, sparkline(a.trend)),
          h("td", { class: "num nowrap", "data-label": "Size" }, bytes(a.bytes)),
          h("td", { "data-label": "Last change" }, when(a.changed_at)),
          h("td", { "data-label": "Waiting" }, a.pending ? badge(`${a.pending} to learn`, "accent") : h("span", { class: "dim" }, "–")))))) : empty("search", "Nothing matches", `No adapter's name, description or task is near “${state.search}”.`, link(askPath("auto"), "Ask the base model"))),
      state.list.has_more ? h("div", { class: "row" }, button("Show more", () => { state.pages.push(state.list.last_id); load(); })) : null);
  }

  await load();
  mount(view.main, head({ title: "Adapters", lead: "One frozen model, and what it has learned for each task.", actions: tools }), h("div", null, search), body);
  view.onChange = (changed) => [...changed].some((name) => name === "*" || name.startsWith("adapter:")) && load();
  if (state.search) findSoon();
}
