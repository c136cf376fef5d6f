// Two versions of one adapter: the same probes side by side, and a prompt asked of both.

import { chat, get, part, post } from "./api.js";
import { count, decimal, h, icon, mount, percent } from "./dom.js";
import { adapterPath, badge, button, empty, facts, failure, head, lastTurn, panel } from "./parts.js";

const PROBES = 40;

export async function show(view) {
  const { name, before, after } = view.params;
  view.title(`${name} @${before} and @${after}`);
  const path = `v1/adapters/${part(name)}`;
  const [timeline, probes] = await Promise.all([get(`${path}/timeline`, view.stop.signal), get(`${path}/probes?limit=${PROBES}`, view.stop.signal)]);
  const pair = { before: `${name}@${before}`, after: `${name}@${after}` };
  const summary = await post("v1/adapters/diff", pair, { signal: view.stop.signal });
  let filter = view.query.get("show") ?? "changed";
  let answers = null;
  let trouble = null;
  const body = h("div");

  const pick = (which) => h("select", {
    class: "input fit", "aria-label": which === "before" ? "Earlier version" : "Later version",
    onchange: (event) => view.go(adapterPath(name, "compare", ...(which === "before" ? [event.target.value, after] : [before, event.target.value]))),
  }, timeline.versions.map((v) => h("option", { value: v.number, selected: String(v.number) === (which === "before" ? before : after) }, `@${v.number} ${v.kind}${v.refused ? ", refused" : ""}${v.served ? ", served" : ""}`)));

  const right = (answer, which) => answer[which].trim() === answer.expected.trim();
  const groups = {
    changed: ["Changed", (a) => a.before !== a.after],
    lost: ["Lost", (a) => right(a, "before") && !right(a, "after")],
    won: ["Won", (a) => !right(a, "before") && right(a, "after")],
    all: ["All", () => true],
  };

  function draw() {
    if (trouble) return mount(body, failure(trouble, compare));
    if (!probes.data.length) return mount(body, h("div", { class: "panel" }, empty("compare", "There is nothing to ask", "This adapter has no probes. Ask both versions a prompt of your own below.")));
    if (!answers) return mount(body, h("div", { class: "panel" }, h("div", { class: "empty", role: "status" }, icon("compare"), h("h2", null, `Asking both versions ${count(probes.data.length, "probe")}`), h("p", null, "Each answer is generated now, by the weights of each version."), h("progress", { class: "progress", "aria-label": "Asking" }))));
    const shown = answers.filter(groups[filter][1]);
    const score = (which) => answers.filter((a) => right(a, which)).length;
    const mark = (answer, which) => h("td", { class: "text", "data-label": which === "before" ? `@${before}` : `@${after}` }, h("span", { class: right(answer, which) ? "good" : "bad" }, icon(right(answer, which) ? "check" : "cross"), h("span", { class: "visually-hidden" }, right(answer, which) ? "right: " : "wrong: ")), " ", answer[which] || h("span", { class: "dim" }, "(nothing)"));
    return mount(body, panel(`${score("before")} of ${answers.length} right before, ${score("after")} after`,
      h("div", { class: "row", role: "group", "aria-label": "Which answers" }, Object.entries(groups).map(([key, [label, test]]) => button(`${label} ${answers.filter(test).length}`, () => { filter = key; view.setQuery({ show: key }); draw(); }, { pressed: filter === key, kind: "small-button", key: `filter ${key}` }))),
      shown.length ? h("table", { class: "table cards" }, h("thead", null, h("tr", null, ["Probe", "Right answer", `@${before}`, `@${after}`].map((label) => h("th", { scope: "col" }, label)))),
        h("tbody", null, shown.map((a) => h("tr", null, h("td", { class: "text wide" }, a.prompt), h("td", { class: "text wide", "data-label": "Right answer" }, a.expected), mark(a, "before"), mark(a, "after"))))) : empty("check", filter === "lost" ? "Nothing was lost" : filter === "won" ? "Nothing was won" : "No answer changed", `${count(answers.length, "probe")} were asked of both versions.`)));
  }

  async function compare() {
    trouble = null;
    if (!probes.data.length) return draw();
    draw();
    try {
      const examples = probes.data.map(({ messages, output }) => ({ messages, output }));
      answers = (await post("v1/adapters/diff", { ...pair, examples }, { signal: view.stop.signal })).answers;
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      trouble = error;
    }
    return draw();
  }

  const prompt = h("textarea", { class: "input", rows: 2, "aria-label": "Prompt for both versions", placeholder: "Ask both versions…", value: lastTurn(probes.data[0]?.messages) });
  const results = h("div", { class: "columns" });
  const askBoth = async () => {
    const content = prompt.value.trim();
    if (!content) return prompt.focus();
    const boxes = [pair.before, pair.after].map((model) => [model, h("div", { class: "turn" }, h("div", { class: "who" }, model), h("div", { class: "text" }))]);
    mount(results, boxes.map(([, box]) => box));
    await Promise.all(boxes.map(async ([model, box]) => {
      try {
        await chat({ model, messages: [{ role: "user", content }], temperature: 0, max_tokens: 256, store: false }, (text) => { box.lastChild.textContent = text; }, view.stop.signal);
      } catch (error) {
        if (error.name !== "AbortError") mount(box, failure(error));
      }
    }));
    return undefined;
  };

  mount(view.main,
    head({ crumbs: [["adapters", "Adapters"], [adapterPath(name), name]], title: "Compare versions", actions: [pick("before"), h("span", { class: "dim", "aria-hidden": "true" }, "→"), pick("after")] }),
    h("div", { class: "panel" }, facts([
      ["Weights moved", percentOf(summary.distance), "of the layers' norm"],
      [`Strength of @${before}`, percentOf(summary.strengths[0])],
      [`Strength of @${after}`, percentOf(summary.strengths[1])],
      ["Events learned between", summary.events.length, summary.events.length ? summary.events.slice(0, 6).map((e) => `#${e}`).join(" ") : ""],
    ])),
    body,
    view.can("generate") ? panel("Ask both", badge("not stored"), h("div", { class: "body stack" }, prompt, h("div", { class: "row" }, button("Ask both versions", askBoth, { kind: "primary" })), results)) : null);
  await compare();
}

function percentOf(share) {
  return share === 0 ? "0%" : share < 0.01 ? `${decimal(share * 100)}%` : percent(share);
}
