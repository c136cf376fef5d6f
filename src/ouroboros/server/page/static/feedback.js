// What people said of answers, and what each judgement came to.

import { get, part, remove } from "./api.js";
import { count, h, icon, mount, when } from "./dom.js";
import { eventText, titleOf } from "./adapter.js";
import { adapterPath, ask, badge, button, empty, head, link, toast } from "./parts.js";

export async function show(view) {
  view.title("Feedback");
  let filter = view.query.get("show") ?? "all";
  let limit = 100;
  const adapter = view.query.get("adapter");
  const body = h("div", { class: "stack" });
  let list = null;

  const groups = {
    all: ["All", () => true],
    pending: ["Waiting", (e) => e.pending],
    learned: ["Learned", (e) => e.learned],
    not: ["Not learned", (e) => e.learned === false],
  };

  async function load() {
    list = await get(`v1/judgements?limit=${limit}${adapter ? `&adapter=${part(adapter)}` : ""}`, view.stop.signal);
    draw();
  }

  const unlearn = (event) => ask({
    title: "Unlearn this judgement?",
    words: "Its text is erased for good. Versions that learned it are made again without it; this can take as long as a training.",
    action: "Unlearn", danger: true,
    submit: async () => { await remove(`v1/feedback/${part(event.ticket)}`); await load(); toast("The judgement is unlearned and erased."); },
  });

  function outcome(event) {
    if (event.pending) return badge("waits to be learned", "warn");
    if (event.learned) return badge(event.version ? `learned by @${event.version}` : "learned", "good");
    if (event.learned === false) return badge("not learned");
    return badge("kept, teaches nothing");
  }

  function draw() {
    const shown = list.data.filter(groups[filter][1]);
    mount(body,
      h("div", { class: "row", role: "group", "aria-label": "Which judgements" }, Object.entries(groups).map(([key, [label, test]]) => button(`${label} ${list.data.filter(test).length}`, () => { filter = key; view.setQuery({ show: key === "all" ? null : key }); draw(); }, { pressed: filter === key, kind: "small-button", key: `filter ${key}` }))),
      h("div", { class: "panel" }, shown.length ? h("ul", { class: "timeline" }, shown.map((event) => h("li", { class: "step" },
        h("div", { class: "rail" }, h("span", { class: "mark" }, icon(event.signal === "correction" ? "pen" : event.signal === "success" ? "up" : event.signal === "failure" ? "down" : "feedback"))),
        h("div", { class: "what" },
          h("div", { class: "title" }, h("strong", null, titleOf(event)), h("a", { href: adapterPath(event.adapter) }, event.answered ?? event.adapter), outcome(event), event.user ? h("span", { class: "dim small" }, `by ${event.user}`) : null, when(event.at)),
          eventText(event),
          h("div", { class: "tools" }, event.version ? link(adapterPath(event.adapter), "See the verdict", "button quiet small-button") : null, event.ticket && view.can("feedback") ? button("Unlearn", () => unlearn(event), { kind: "quiet small-button danger", key: `unlearn ${event.id}` }) : null))))) : list.data.length ? empty("feedback", "Nothing here", "No judgement has come to this.") : empty("feedback", "Nobody has judged an answer yet", "Thumbs, corrections and preferences from the playground, the API and the command line appear here, each with what the adapter learned from it.", link("playground", "Open the playground", "button primary"))),
      list.has_more ? h("div", { class: "row" }, button(`Show more than ${count(limit, "judgement")}`, () => { limit = Math.min(500, limit + 100); load(); })) : null);
  }

  await load();
  mount(view.main, head({ title: "Feedback", lead: adapter ? `What people said of ${adapter}'s answers.` : "What people said of answers, and what each judgement came to." }), body);
  view.onChange = (changed) => ([...changed].some((name) => name === "*" || name.startsWith("adapter:")) ? load() : null);
}
