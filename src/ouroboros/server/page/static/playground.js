// Ask an adapter, the base or both side by side; judge an answer, and see what that one judgement changed.

import { awaitTicket, chat, get, part, post, remove } from "./api.js";
import { h, icon, mount } from "./dom.js";
import { checkList, combine, sentence } from "./adapter.js";
import { adapterPath, badge, button, empty, failure, field, head, link, note, toast } from "./parts.js";

const REASONS = ["Wrong", "Incomplete", "Invented", "Bad style", "Refused"];

export async function show(view) {
  view.title("Playground");
  const { data: models } = await get("v1/models", view.stop.signal);
  const base = models[0]?.id;
  const names = models.map((model) => model.id);
  const first = view.query.get("a") ?? names.find((name) => name !== base && name !== "auto") ?? base;
  const columns = [makeColumn(first)];
  if (view.query.get("b")) columns.push(makeColumn(view.query.get("b")));
  const board = h("div", { class: "columns" });
  let busy = null;

  const input = h("textarea", {
    class: "input", rows: 1, "aria-label": "Message", placeholder: "Ask something…", title: "Enter sends, Shift and Enter starts a line",
    onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); sendMessage(); } },
    oninput: () => { input.rows = Math.min(8, input.value.split("\n").length); },
  });
  const sendButton = h("button", { class: "button primary", type: "submit" }, "Send");
  const composer = h("form", { class: "panel composer", onsubmit: (event) => { event.preventDefault(); if (busy) busy.abort(); else sendMessage(); } }, input, sendButton);
  const temperature = h("input", { class: "input", type: "number", min: 0, max: 2, step: 0.1, value: "0" });
  const limit = h("input", { class: "input", type: "number", min: 1, max: 4096, value: "256" });

  function makeColumn(model) {
    return { model, turns: [], element: h("section", { class: "panel thread" }), turnsElement: h("div", { class: "turns", "aria-live": "polite" }) };
  }

  function describeModel(name) {
    return name === base ? `${name} (base model)` : name === "auto" ? "auto (the adapter that matches)" : name;
  }

  function drawColumn(column) {
    const options = names.includes(column.model) ? names : [column.model, ...names];
    const select = h("select", {
      class: "input fit", "aria-label": "Which model answers", "data-key": "model",
      onchange: () => { column.model = select.value; column.turns = []; saveColumns(); drawColumn(column); },
    }, options.map((name) => h("option", { value: name, selected: name === column.model }, describeModel(name))));
    mount(column.element, h("header", null, h("h2", { class: "visually-hidden" }, column.model), h("div", { class: "grow" }, select), columns.length > 1 ? button(icon("cross"), () => { columns.splice(columns.indexOf(column), 1); saveColumns(); drawBoard(); }, { kind: "quiet icon-only", name: `Close ${column.model}` }) : null), column.turnsElement);
    drawTurns(column);
  }

  function drawTurns(column) {
    mount(column.turnsElement, column.turns.length ? column.turns.map((turn) => turn.element) : empty("playground", column.model === base ? "The base model, as it came" : column.model === "auto" ? "The best match answers" : `Ask ${column.model}`, column.model === base ? "It learns nothing itself. Compare an adapter with it, or let an adapter learn from a correction of its answer." : "Judge an answer, and see what the adapter learned from it."));
  }

  function drawBoard() {
    for (const column of columns) drawColumn(column);
    mount(board, columns.map((column) => column.element));
  }

  function saveColumns() {
    view.setQuery({ a: columns[0]?.model, b: columns[1]?.model });
  }

  async function sendMessage() {
    const content = input.value.trim();
    if (!content || busy) return input.focus();
    busy = new AbortController();
    view.stop.signal.addEventListener("abort", () => busy?.abort());
    input.value = "";
    input.rows = 1;
    sendButton.textContent = "Stop";
    const started = columns.map((column) => answerIn(column, content, busy.signal));
    const answers = (await Promise.all(started)).filter((turn) => turn?.answer?.id);
    busy = null;
    sendButton.textContent = "Send";
    if (answers.length === 2 && samePrompt(...answers)) offerChoice(...answers);
    input.focus();
    return undefined;
  }

  const samePrompt = (one, two) => JSON.stringify(one.messages) === JSON.stringify(two.messages) && one.answer.text !== two.answer.text;

  async function answerIn(column, content, signal) {
    const messages = [...column.turns.filter((turn) => turn.role !== "note").map((turn) => ({ role: turn.role, content: turn.role === "user" ? turn.content : turn.answer.text })), { role: "user", content }];
    column.turns.push({ role: "user", content, element: h("div", { class: "turn user" }, h("div", { class: "who" }, "You"), h("div", { class: "text" }, content)) });
    const text = h("div", { class: "text" });
    const who = h("div", { class: "who" }, column.model);
    const element = h("div", { class: "turn" }, who, h("div", null, text, h("span", { class: "cursor-mark", "aria-hidden": "true" })));
    const turn = { role: "assistant", element, messages, column, answer: null };
    column.turns.push(turn);
    drawTurns(column);
    element.scrollIntoView({ block: "nearest" });
    try {
      turn.answer = await chat({ model: column.model, messages, temperature: Number(temperature.value), max_tokens: Number(limit.value) }, (whole) => { text.textContent = whole; }, signal);
      drawAnswer(turn);
    } catch (error) {
      // An answer that did not come to its end is shown, and is no part of the conversation.
      const asked = column.turns[column.turns.indexOf(turn) - 1];
      asked.role = turn.role = "note";
      const again = () => {
        column.turns = column.turns.filter((other) => other !== turn && other !== asked);
        drawTurns(column);
        input.value = content;
        input.focus();
      };
      if (error.name === "AbortError") mount(element, who, h("div", { class: "text" }, text.textContent), h("div", { class: "dim small" }, "Stopped."));
      else mount(element, who, failure(error, again));
    }
    return turn;
  }

  function drawAnswer(turn) {
    const { answer, column } = turn;
    const adapter = answer.version?.split("@")[0] ?? (columns.map((c) => c.model).find((name) => name !== base && name !== "auto")?.split("@")[0]);
    turn.adapter = adapter;
    turn.below = h("div", { class: "stack" });
    mount(turn.element,
      h("div", { class: "who" }, answer.version ? [h("a", { href: adapterPath(adapter) }, answer.version)] : column.model === "auto" ? `no adapter matches: ${base}` : column.model, answer.finish === "length" ? badge("cut at the token limit", "warn") : null),
      h("div", { class: "text" }, answer.text || h("span", { class: "dim" }, "(an empty answer)")),
      view.can("feedback") && adapter ? h("div", { class: "judge", role: "group", "aria-label": "Judge this answer" },
        button(icon("up"), () => judge(turn, { rating: "up" }), { kind: "quiet icon-only", name: "Good answer", title: "Good answer" }),
        button(icon("down"), () => openReason(turn), { kind: "quiet icon-only", name: "Bad answer", title: "Bad answer" }),
        button([icon("pen"), "Fix this"], () => openFix(turn), { kind: "quiet small-button" })) : null,
      turn.below);
  }

  function openFix(turn) {
    const edit = h("textarea", { class: "input", rows: Math.min(8, turn.answer.text.split("\n").length + 1), "aria-label": "The right answer", value: turn.answer.text });
    mount(turn.below, h("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); const correction = edit.value.trim(); if (correction && correction !== turn.answer.text) judge(turn, { correction }); else edit.focus(); } },
      field(`What ${turn.adapter} should have answered`, edit),
      h("div", { class: "row" }, h("button", { class: "button primary", type: "submit" }, "Teach this"), button("Cancel", () => mount(turn.below)))));
    edit.focus();
    edit.select();
  }

  function openReason(turn) {
    const words = h("input", { class: "input", "aria-label": "In your own words", placeholder: "In your own words (optional)", maxlength: 1000 });
    let reason = null;
    const reasons = h("div", { class: "row", role: "group", "aria-label": "What is wrong" });
    const drawReasons = () => mount(reasons, REASONS.map((label) => button(label, () => { reason = reason === label ? null : label; drawReasons(); }, { pressed: reason === label, kind: "small-button", key: label })));
    drawReasons();
    mount(turn.below, h("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); judge(turn, { rating: "down" }, [reason, words.value.trim()].filter(Boolean).join(": ")); } },
      h("span", { class: "label" }, "What is wrong with it?"), reasons, words,
      h("div", { class: "row" }, h("button", { class: "button primary", type: "submit" }, "Send"), button("I know the right answer", () => openFix(turn)), button("Cancel", () => mount(turn.below), { kind: "quiet" }))));
    words.focus();
  }

  function offerChoice(one, two) {
    for (const [better, worse] of [[one, two], [two, one]]) {
      if (!better.adapter || !view.can("feedback")) continue;
      const learner = one.answer.version ? one.adapter : two.adapter;
      mount(better.below, h("div", null, button([icon("check"), "This one is better"], () => {
        mount(worse.below);
        judge({ ...better, adapter: learner }, { preferred_over: worse.answer.id, adapter: learner });
      }, { kind: "small-button" })));
    }
  }

  /** Send one judgement, wait for what came of it, and show that under the answer. */
  async function judge(turn, judgement, critique) {
    const { answer, adapter, below } = turn;
    mount(below, h("div", { class: "outcome", role: "status" }, h("span", null, `${adapter} is learning…`), h("progress", { class: "progress", "aria-label": "Learning" })));
    try {
      const before = await get(`v1/adapters/${part(adapter)}`, view.stop.signal);
      const body = { completion_id: answer.id, adapter, ...judgement };
      const receipt = await post("v1/feedback", body);
      if (critique) await post("v1/feedback", { completion_id: answer.id, adapter, critique });
      const ticket = await awaitTicket(receipt.id);
      await drawOutcome(turn, ticket, before.head);
    } catch (error) {
      if (error.name !== "AbortError") mount(below, failure(error, () => judge(turn, judgement)));
    }
  }

  async function drawOutcome(turn, ticket, before) {
    const { adapter, below, answer } = turn;
    const timeline = await get(`v1/adapters/${part(adapter)}/timeline`, view.stop.signal);
    const version = timeline.versions.find((v) => v.id === ticket.version && v.number !== before && v.lessons.some((lesson) => lesson.event === ticket.event));
    const refused = timeline.versions.findLast((v) => v.refused && v.lessons.some((lesson) => lesson.event === ticket.event));
    if (!version && !refused) {
      mount(below, note("", ticket.status === "learned" ? "Noted" : "Nothing new was learned", ticket.lesson));
      return;
    }
    const shown = version ?? refused;
    const now = h("ins", { class: "text" }, "asking again…");
    mount(below, h("div", { class: `outcome${refused && !version ? " refused" : ""}`, role: "status" },
      h("div", { class: "row" }, h("strong", null, version ? `Learned as ${shown.id}` : `Refused: ${shown.id} is not served`), version ? badge("served now", "accent") : badge("kept for inspection", "bad")),
      h("dl", { class: "diff" },
        h("dt", null, "What changed"), h("dd", null, h("del", { class: "text" }, answer.text || "(nothing)"), " ", now),
        h("dt", null, "What stayed"), h("dd", null, stayed(shown)),
        h("dt", null, "Lesson"), h("dd", { class: "text" }, ticket.lesson)),
      h("details", null, h("summary", null, `${sentence(shown)}`), checkList(shown)),
      h("div", { class: "row" },
        version && view.can("train") ? button([icon("undo"), `Undo, serve @${before} again`], () => undo(adapter, before, version.number, below), { kind: "small-button" }) : null,
        button("Unlearn and erase", () => unlearn(ticket, below), { kind: "quiet small-button danger" }),
        shown.number > 1 ? link(adapterPath(adapter, "compare", before, shown.number), [icon("compare"), "Compare both"], "button quiet small-button") : null)));
    const again = await chat({ model: shown.id, messages: turn.messages, temperature: 0, max_tokens: Number(limit.value), store: false }, (text) => { now.textContent = text; }, view.stop.signal);
    if (again.text === answer.text) now.replaceWith(h("span", { class: "dim" }, "The answer to this prompt is still the same."));
    else now.textContent = again.text || "(nothing)";
  }

  function stayed(version) {
    const parts = [["known", "answers it knew"], ["pinned", "pinned answers"]].flatMap(([name, words]) => {
      const sum = combine(version, name);
      return sum?.before ? [`${sum.before - sum.lost} of ${sum.before} ${words}`] : [];
    });
    return parts.length ? parts.join(", ") : "Nothing to compare yet: the adapter has no probes.";
  }

  async function undo(adapter, before, after, below) {
    await post(`v1/adapters/${part(adapter)}/rollback`, { version: before });
    mount(below, note("", `Undone: ${adapter}@${before} is served again`, `@${after} is kept, and can be served from the timeline.`, link(adapterPath(adapter), "See the timeline")));
  }

  async function unlearn(ticket, below) {
    mount(below, h("div", { class: "outcome", role: "status" }, h("span", null, "Erasing it, and making again what had learned it…"), h("progress", { class: "progress", "aria-label": "Unlearning" })));
    try {
      await remove(`v1/feedback/${part(ticket.id)}`);
      mount(below, note("", "Unlearned", "The judgement is erased, and no version knows it any more."));
    } catch (error) {
      mount(below, failure(error));
    }
  }

  drawBoard();
  mount(view.main,
    head({ title: "Playground", lead: "Ask, correct, and see what one correction changed.", actions: [
      button([icon("plus"), "Compare"], () => { const other = names.find((name) => name !== "auto" && !columns.some((c) => c.model === name)) ?? base; columns.push(makeColumn(other)); saveColumns(); drawBoard(); input.focus(); }, { name: "Add a model to compare" }),
      button("New chat", () => { busy?.abort(); for (const column of columns) column.turns = []; drawBoard(); input.focus(); }),
    ] }),
    board,
    h("details", null, h("summary", null, "Settings"), h("div", { class: "row" }, field("Temperature", temperature), field("Most tokens of an answer", limit))),
    composer);
  if (!names.some((name) => name !== base && name !== "auto")) toast("There is no adapter yet: only the base model answers.", "Create one", () => view.go("adapters"));
  input.focus({ preventScroll: true });
}
