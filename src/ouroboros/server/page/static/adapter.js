// One adapter: its versions with the verdict on each, what it was taught, and what it must not lose.

import { get, part, post, remove } from "./api.js";
import { bytes, count, decimal, duration, h, icon, mount, percent, when } from "./dom.js";
import { groupMap, heatMap } from "./chart.js";
import { adapterPath, ask, askPath, badge, button, empty, facts, failure, field, head, interval, lastTurn, link, note, panel, skeleton, toast } from "./parts.js";

const KINDS = {
  created: ["plus", "Created"], trained: ["train", "Trained"], corrected: ["pen", "Corrected"], merged: ["merge", "Merged"], imported: ["file", "Imported"],
};
const CHECKS = {
  finite: "finite", differs: "differs", strength: "strength", arrived: "learned", known: "kept", creep: "slow loss", class: "group", pinned: "pinned", drift: "drift",
};
const SIGNALS = { correction: "Correction", success: "Thumbs up", failure: "Thumbs down", preference: "Liked", preference_pair: "Preferred", critique: "Comment" };

export async function show(view) {
  const { name } = view.params;
  view.title(name);
  const path = `v1/adapters/${part(name)}`;
  const tab = view.query.get("tab") ?? "versions";
  const content = h("div", { class: "stack" });
  let timeline = null;
  let measured = null;

  async function load() {
    timeline = await get(`${path}/timeline`, view.stop.signal);
    draw();
    await drawTab();
  }

  const serve = (version, words) => async () => {
    const before = timeline.adapter.head;
    await post(`${path}/rollback`, { version });
    await load();
    toast(words ?? `${name}@${version} is served.`, "Undo", async () => { await post(`${path}/rollback`, { version: before }); await load(); });
  };

  const erase = () => ask({
    title: `Delete ${name}?`,
    words: "All its versions and all it was taught are removed for good. Adapters merged from it stay.",
    action: "Delete", danger: true,
    submit: async () => { await remove(path); await view.go("adapters"); },
  });

  function draw() {
    const { adapter, versions, pending, trend } = timeline;
    const served = versions.find((version) => version.served);
    const base = adapterPath(name);
    const previous = versions.filter((v) => !v.refused && v.number < adapter.head).at(-1);
    const good = versions.reduce((sum, v) => sum + v.good, 0);
    const bad = versions.reduce((sum, v) => sum + v.bad, 0);
    mount(view.main,
      head({
        crumbs: [["adapters", "Adapters"]], title: name,
        badges: [badge(`@${adapter.head} is served`, "accent"), pending ? badge(`learning ${count(pending, "judgement")}`, "warn") : null, trend === "falling" ? badge("judged worse lately", "bad") : trend === "rising" ? badge("judged better lately", "good") : null],
        lead: adapter.description || null,
        actions: [
          link(askPath(name), [icon("playground"), "Ask"], "button primary"),
          view.can("train") ? link(`train?adapter=${part(name)}`, [icon("train"), "Train"]) : null,
          view.can("train") && previous ? button([icon("undo"), `Roll back to @${previous.number}`], serve(previous.number), { key: "rollback" }) : null,
        ],
      }),
      h("div", { class: "panel" }, facts([
        ["On its probes", served.accuracy ? percent(served.accuracy.right / served.accuracy.rows) : "not measured", served.accuracy ? `${served.accuracy.right} of ${served.accuracy.rows}, ${percent(served.accuracy.low)}–${percent(served.accuracy.high)}` : ""],
        ["Versions", versions.length, versions.some((v) => v.refused) ? `${versions.filter((v) => v.refused).length} refused` : ""],
        ["People said", good + bad ? `${good} good` : "nothing yet", good + bad ? `${bad} bad` : ""],
        ["Size", bytes(served.bytes), `rank ${adapter.config.rank}`],
      ])),
      h("nav", { class: "tabs", "aria-label": "About this adapter" }, [["versions", "Versions"], ["events", "What it was taught"], ["pins", "Pins and probes"], ["about", "About"]].map(([key, label]) => h("a", { href: `${base}?tab=${key}`, "aria-current": tab === key ? "page" : null, "data-key": `tab ${key}` }, label))),
      content);
  }

  async function drawTab() {
    if (tab === "events") await drawEvents();
    else if (tab === "pins") await drawPins();
    else if (tab === "about") drawAbout();
    else drawVersions();
  }

  const openVersion = (version) => (version.parents.length === 1 ? adapterPath(name, "compare", version.parents[0].split("@").at(-1), version.number) : adapterPath(name));

  /** Ask the newest versions every probe, and draw the map by the answer that probes share. */
  async function measure(area) {
    const asked = timeline.versions.filter((version) => version.number > 1).slice(-8);
    try {
      const { data: probes } = await get(`${path}/probes?limit=60`, view.stop.signal);
      const examples = probes.map(({ messages, output }) => ({ messages, output }));
      const results = new Map();
      for (const [i, version] of asked.entries()) {
        mount(area, h("div", { class: "stack", role: "status" }, h("span", { class: "dim" }, `Asking @${version.number} ${count(probes.length, "probe")}, ${i + 1} of ${asked.length}…`), h("progress", { class: "progress", max: asked.length, value: i, "aria-label": "Measuring" })));
        const { answers } = await post(`v1/adapters/${part(version.id)}/evaluate`, { examples }, { signal: view.stop.signal });
        results.set(version.number, answers.map((answer, n) => answer.trim() === probes[n].output.trim()));
      }
      measured = groupMap(asked, probes, results, openVersion);
      mount(area, measured);
    } catch (error) {
      if (error.name !== "AbortError") mount(area, failure(error, () => measure(area)));
    }
  }

  function drawVersions() {
    const { versions, moves } = timeline;
    const map = heatMap(versions, openVersion);
    const area = h("div", { class: "body" }, measured ?? map);
    const steps = [
      ...versions.map((version, i) => ({ at: version.created_at, order: i, version })),
      ...moves.map((move, i) => ({ at: move.at, order: versions.length + i, move })),
    ].sort((a, b) => b.at - a.at || b.order - a.order);
    mount(content,
      map ? panel("What each version answers right", view.can("generate") ? button("Measure every group", () => measure(area), { kind: "small-button", key: "measure", title: "Ask the newest versions all probes, and show each group of answers" }) : null, area) : note("", "No version was tested yet", "Train this adapter or correct an answer: each new version is asked what the adapter knew before, and refused if it forgot too much."),
      panel("Timeline", h("span", { class: "dim small" }, "newest first"), h("ol", { class: "timeline" }, steps.map((step) => (step.move ? drawMove(step.move) : drawVersion(step.version))))));
  }

  function drawMove(move) {
    return h("li", { class: "step" }, h("div", { class: "rail" }, h("span", { class: "mark" }, icon("undo"))),
      h("div", { class: "what" }, h("div", { class: "title" }, h("strong", null, move.after < move.before ? "Rolled back" : "Served again"), h("span", { class: "dim" }, `@${move.before} → @${move.after}`), when(move.at)),
        move.reason ? h("p", { class: "small text" }, move.reason) : null, move.replayed ? h("p", { class: "small dim" }, "Feedback since then is learned anew.") : null));
  }

  function drawVersion(version) {
    const [mark, label] = KINDS[version.kind] ?? ["spark", version.kind];
    const learned = version.lessons.filter((lesson) => lesson.learned);
    const why = version.kind === "trained" && version.training ? `${count(version.training.rows, "row")} in ${duration(version.training.seconds)}` : version.kind === "merged" ? version.parents.join(" + ") : learned.length ? count(learned.length, "judgement") : "";
    const tools = [
      version.number > 1 && version.parents.length === 1 ? link(adapterPath(name, "compare", version.parents[0].split("@").at(-1), version.number), [icon("compare"), "Compare with its parent"], "button quiet small-button") : null,
      link(askPath(version.id), [icon("playground"), "Ask it"], "button quiet small-button"),
      !version.served && view.can("train") ? button([icon("undo"), version.refused ? "Serve it anyway" : "Serve this"], serve(version.number), { kind: "quiet small-button", key: `serve ${version.number}`, name: `${version.refused ? "Serve it anyway" : "Serve this"}: version ${version.number}` }) : null,
    ];
    return h("li", { class: `step${version.served ? " served" : ""}${version.refused ? " refused" : ""}` },
      h("div", { class: "rail" }, h("span", { class: "mark" }, icon(version.refused ? "cross" : mark))),
      h("div", { class: "what" },
        h("div", { class: "title" }, h("strong", { class: "num" }, `@${version.number}`), h("span", null, label), why && h("span", { class: "dim small" }, why), version.served ? badge("served", "accent") : null, version.refused ? badge("refused", "bad") : null, version.saved_by ? badge(version.saved_by, "warn") : null, version.good ? badge(`${version.good} good`, "good") : null, version.bad ? badge(`${version.bad} bad`, "bad") : null, when(version.created_at)),
        version.sentence ? h("p", { class: "sentence" }, sentence(version)) : h("p", { class: "dim" }, version.kind === "created" ? "Answers as the base model does." : "It was not judged."),
        version.lessons.length ? h("ul", { class: "small dim" }, version.lessons.slice(0, 4).map((lesson) => h("li", { class: "text" }, lesson.words))) : null,
        version.checks.length ? h("details", { "data-key": `checks ${version.number}` }, h("summary", null, `The numbers behind it (${count(version.checks.length, "check")}, ${duration(version.judged_seconds)})`), checkList(version)) : null,
        h("div", { class: "tools" }, tools)));
  }

  async function drawEvents() {
    const events = await readAll(`${path}/events?limit=500`, view.stop.signal);
    const list = events.toReversed();
    mount(content, list.length ? panel("What it was taught", h("span", { class: "dim small" }, "newest first; forgetting erases the text, and makes again without it what had learned it"),
      h("ul", { class: "timeline" }, list.map((event) => h("li", { class: "step" },
        h("div", { class: "rail" }, h("span", { class: "mark" }, icon(event.signal === "correction" ? "pen" : event.kind === "feedback" ? "feedback" : event.kind === "examples" ? "file" : "pin"))),
        h("div", { class: "what" },
          h("div", { class: "title" }, h("strong", null, titleOf(event)), h("span", { class: "dim small num" }, `event ${event.event}`), event.pending ? badge("waits to be learned", "warn") : event.learned === false ? badge("not learned") : event.versions.length ? badge(`learned by ${event.versions.map((v) => `@${v}`).join(", ")}`, "good") : null, when(event.at)),
          eventText(event),
          h("div", { class: "tools" }, view.can("admin") ? button([icon("cross"), "Forget"], () => forget(event), { kind: "quiet small-button danger", key: `forget ${event.event}`, name: `Forget event ${event.event}` }) : null)))))) : h("div", { class: "panel" }, empty("file", "It was taught nothing yet", "Examples and judgements appear here, each with the version that learned it.", link(`train?adapter=${part(name)}`, "Train on a file", "button primary"), link(askPath(name), "Ask and correct"))));
  }

  const forget = (event) => ask({
    title: `Forget event ${event.event}?`,
    words: `${titleOf(event)}. Its text is erased from the store for good. Versions that learned it are removed and made again without it; this can take as long as a training.`,
    action: "Forget", danger: true,
    submit: async () => {
      const erasure = await post(`${path}/forget`, { events: [event.event] });
      await load();
      toast(erasure.removed.length ? `Erased. ${count(erasure.removed.length, "version")} that had learned it ${erasure.removed.length === 1 ? "was" : "were"} removed.` : "Erased. No version had learned it.");
    },
  });

  async function drawPins() {
    const { data } = await get(`${path}/probes?limit=500`, view.stop.signal);
    const pins = data.filter((probe) => probe.kind === "pinned");
    const others = data.filter((probe) => probe.kind !== "pinned");
    const pin = () => ask({
      title: "Pin an answer",
      words: "Each update is tested on pinned answers and refused if it loses one. They are never trained on.",
      fields: [field("Prompt", h("textarea", { class: "input", name: "prompt", rows: 3, required: true })), field("Right answer", h("textarea", { class: "input", name: "output", rows: 2, required: true }))],
      action: "Pin",
      submit: async ({ prompt, output }) => { await post(`${path}/pins`, { examples: [{ messages: [{ role: "user", content: prompt }], output }] }); await load(); },
    });
    const rows = (probes, withTool) => h("table", { class: "table cards" }, h("thead", null, h("tr", null, ["Prompt", "Right answer", withTool ? "" : "Kind"].map((label) => h("th", { scope: "col" }, label || h("span", { class: "visually-hidden" }, "Action"))))),
      h("tbody", null, probes.map((probe) => h("tr", null, h("td", { class: "text wide" }, lastTurn(probe.messages)), h("td", { class: "text", "data-label": "Right answer" }, probe.output),
        h("td", { class: "right" }, withTool ? view.can("feedback") && button("Unpin", async () => { await post(`${path}/unpin`, { prompts: [probe.messages] }); await load(); }, { kind: "quiet small-button", name: `Unpin ${lastTurn(probe.messages).slice(0, 60)}` }) : badge(probe.kind))))));
    mount(content,
      panel("Pinned answers", view.can("feedback") ? button([icon("pin"), "Pin an answer"], pin, { key: "pin" }) : null, pins.length ? rows(pins, true) : empty("pin", "Nothing is pinned", "Pin an answer that no update may ever lose.")),
      panel("Probes", h("span", { class: "dim small" }, count(others.length, "prompt")), others.length ? rows(others.slice(0, 100), false) : h("div", { class: "body dim" }, "Probes are held out of trainings with 40 examples or more, and taken from corrections.")));
  }

  function drawAbout() {
    const { adapter, versions } = timeline;
    const served = versions.find((version) => version.served);
    const config = adapter.config;
    mount(content,
      panel("Shape", null, h("div", { class: "body" }, h("dl", { class: "diff" }, [["Base model", adapter.parent], ["Rank", config.rank], ["Layers", Array.isArray(config.target_modules) ? config.target_modules.join(", ") : config.target_modules], ["Learning rate", config.learning_rate], ["Stored as", config.precision], ["Digest of the served version", h("span", { class: "mono text" }, served.digest)]].flatMap(([label, value]) => [h("dt", null, label), h("dd", { class: "text" }, value)])))),
      panel("Files", null, h("div", { class: "body stack" }, h("p", { class: "dim" }, "The folder works with PEFT and vLLM, the GGUF file with llama.cpp and Ollama."), h("div", { class: "row" }, h("a", { class: "button", href: `${path}/export`, download: `${name}.zip` }, "Download for PEFT"), h("a", { class: "button", href: `${path}/export?form=gguf`, download: `${name}.zip` }, "Download GGUF")))),
      view.can("admin") ? panel("Delete", null, h("div", { class: "body row" }, h("p", { class: "dim grow" }, "Removes the adapter, its versions and all it was taught."), button("Delete adapter", erase, { kind: "danger" }))) : null);
  }

  mount(content, skeleton());
  await load();
  view.onChange = (changed) => (changed.has("*") || changed.has(`adapter:${name}`) ? load() : null);
}

async function readAll(path, signal) {
  let list = await get(path, signal);
  const events = [...list.data];
  while (list.has_more) {
    list = await get(`${path}&after=${events.at(-1).event}`, signal);
    events.push(...list.data);
  }
  return events;
}

/** All checks of one name as one: how many probes were right before and after, and how many were lost. */
export function combine(version, name) {
  const checks = version.checks.filter((check) => check.name === name && check.answers);
  const sum = (value) => checks.reduce((total, check) => total + Math.round(value(check)), 0);
  if (!checks.length) return null;
  return {
    rows: sum((c) => c.answers.rows), before: sum((c) => c.answers.before * c.answers.rows),
    after: sum((c) => c.answers.after * c.answers.rows), lost: sum((c) => c.lost),
  };
}

/** The verdict as a sentence: what was kept, what was learned, and what failed if it was refused. */
export function sentence(version) {
  const [known, pinned, heldOut] = ["known", "pinned", "arrived"].map((name) => combine(version, name));
  const parts = [];
  if (known?.before) parts.push(known.lost ? `kept ${known.before - known.lost} of the ${known.before} answers it knew` : known.before === 1 ? "kept the one answer it knew" : `kept all ${known.before} answers it knew`);
  if (known && known.after + known.lost > known.before) parts.push(`won ${known.after - known.before + known.lost} more`);
  if (pinned) parts.push(pinned.lost ? `lost ${pinned.lost} of ${pinned.rows} pinned answers` : `kept all pinned answers`);
  if (heldOut) parts.push(`${heldOut.after} of ${heldOut.rows} held-out examples right${heldOut.before ? `, ${heldOut.before} before` : ""}`);
  const failed = version.checks.filter((check) => !check.passed).map((check) => (check.group ? `the group “${check.group}”` : CHECKS[check.name]));
  const why = version.refused && failed.length ? ` (it failed on ${[...new Set(failed)].join(", ")})` : "";
  return `${version.refused ? "Refused" : version.share < 1 ? `Promoted at ${percent(version.share)} of the way` : "Promoted"}${why}${parts.length ? `: ${parts.join("; ")}` : ""}.`;
}

export function checkList(version) {
  return h("ul", { class: "checks" }, version.checks.map((check) => {
    const { answers } = check;
    const parts = [];
    if (check.group) parts.push(`“${check.group}”`);
    if (answers) {
      const [after, before] = [answers.after, answers.before].map((share) => Math.round(share * answers.rows));
      parts.push(`${after} of ${answers.rows} right, ${before} before`);
      if (check.lost) parts.push(`${check.lost} lost`);
      if (check.name === "known") parts.push(`change between ${signed(answers.low)} and ${signed(answers.high)} points, tolerance ${(100 * version.tolerance).toFixed(1)}`);
    }
    if (check.value !== null) parts.push(`${decimal(check.value)}${check.limit === null ? "" : ` (limit ${decimal(check.limit)})`}`);
    return h("li", null, h("span", { class: check.passed ? "good" : "bad" }, icon(check.passed ? "check" : "cross"), h("span", { class: "visually-hidden" }, check.passed ? "passed" : "failed")), h("span", { class: "dim" }, CHECKS[check.name]), h("span", { class: "num text" }, parts.join(" · ") || (check.passed ? "passed" : "failed")));
  }));
}

const signed = (share) => `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}`;

export function titleOf(event) {
  if (event.kind === "examples") return count(event.rows, "example");
  if (event.kind === "pinned") return `Pinned ${count(event.rows, "answer")}`;
  if (event.kind === "unpinned") return `Unpinned ${count(event.rows, "answer")}`;
  return SIGNALS[event.signal] ?? event.signal;
}

/** What an event says, with the old answer struck and the new one beside it. */
export function eventText(event) {
  if (event.hidden) return h("p", { class: "dim small" }, "Given by another tenant: its text is not shown.");
  if (event.kind === "feedback") {
    const answer = event.text && event.signal !== "critique" && event.text !== event.answer ? h("del", { class: "text" }, event.answer || "(nothing)") : h("span", { class: "text" }, event.answer || "(nothing)");
    return h("dl", { class: "diff" }, h("dt", null, "Prompt"), h("dd", { class: "text" }, lastTurn(event.prompt)), h("dt", null, "Answer"), h("dd", null, answer),
      event.text ? [h("dt", null, event.signal === "critique" ? "Comment" : event.signal === "preference_pair" ? "Better" : "Correction"), h("dd", null, h(event.signal === "critique" ? "span" : "ins", { class: "text" }, event.text))] : null,
      event.lesson ? [h("dt", null, "Outcome"), h("dd", { class: "text" }, event.lesson)] : null);
  }
  if (!event.examples.length) return null;
  return h("details", { "data-key": `rows ${event.event}` }, h("summary", null, event.rows > event.examples.length ? `The first ${event.examples.length}` : "Show them"), h("dl", { class: "diff" }, event.examples.flatMap((example) => [h("dt", { class: "text" }, example.output), h("dd", { class: "text" }, lastTurn(example.messages))])));
}
