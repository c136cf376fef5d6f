// Train on a file: see what is in it before the start, watch the loss, and stop or go on.

import { get, part, post, upload } from "./api.js";
import { bytes, count, duration, h, icon, integer, mount, percent, when } from "./dom.js";
import { lossCurve } from "./chart.js";
import { adapterPath, askPath, badge, button, empty, facts, failure, field, head, link, note, panel } from "./parts.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const STATES = { validating_files: ["reading the file", "accent"], queued: ["queued", ""], running: ["running", "accent"], succeeded: ["succeeded", "good"], failed: ["failed", "bad"], cancelled: ["cancelled", ""] };

export function jobBadge(job) {
  if (job.paused) return badge("paused", "warn");
  if (job.error?.code === "refused") return badge("refused by the gate", "bad");
  return badge(...(STATES[job.status] ?? [job.status]));
}

export async function show(view) {
  if (view.params.job) return showJob(view);
  view.title("Train");
  const [{ data: adapters, base }, activity] = await Promise.all([get("v1/overview?limit=200", view.stop.signal), get("v1/activity", view.stop.signal)]);
  const state = { file: null, preview: null, trouble: null, loading: false };
  const result = h("div", { class: "stack" });
  const jobs = h("div");

  const picker = h("input", { type: "file", class: "visually-hidden", onchange: () => choose(picker.files[0]) });
  const drop = h("label", { class: "drop" }, icon("file"), h("strong", null, "Drop a file of examples here, or choose one"), h("span", { class: "dim small" }, "JSON lines, JSON, CSV, TSV or Parquet, also compressed. It is read and checked first; nothing is stored before you start."), picker);
  for (const name of ["dragover", "dragenter"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); choose(event.dataTransfer.files[0]); });

  const target = h("select", { class: "input", name: "adapter", onchange: () => { drawTarget(); if (state.file) check(); } },
    h("option", { value: "" }, "A new adapter"), adapters.map((a) => h("option", { value: a.id, selected: a.id === view.query.get("adapter") }, a.id)));
  const newName = h("input", { class: "input", name: "name", maxlength: 64, autocomplete: "off", placeholder: "tickets" });
  const nameField = field("Its name", newName);
  const drawTarget = () => { nameField.hidden = target.value !== ""; };
  drawTarget();

  async function choose(file) {
    if (!file) return;
    state.file = file;
    if (!newName.value) newName.value = file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 64);
    await check();
  }

  async function check() {
    Object.assign(state, { preview: null, trouble: null, loading: true });
    draw();
    try {
      const form = new FormData();
      form.append("file", state.file);
      state.preview = await upload(`v1/training/preview${target.value ? `?adapter=${part(target.value)}` : ""}`, form);
    } catch (error) {
      state.trouble = error;
    }
    state.loading = false;
    draw();
  }

  async function start() {
    const form = new FormData();
    form.append("purpose", "fine-tune");
    form.append("file", state.file);
    try {
      const file = await upload("v1/files", form);
      const body = { model: target.value || base.name, training_file: file.id };
      if (!target.value && newName.value.trim()) body.suffix = newName.value.trim();
      if (state.preview.kind === "preferences") body.method = { type: "dpo" };
      const job = await post("v1/fine_tuning/jobs", body);
      await view.go(`train/${part(job.id)}`);
    } catch (error) {
      state.trouble = error;
      draw();
    }
  }

  const EXAMPLES = [
    ["A prompt and its answer", '{"prompt": "Where is my parcel?", "completion": "parcel"}'],
    ["A conversation", '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'],
    ["A preferred and another output", '{"input": {"messages": [{"role": "user", "content": "Hi"}]}, "preferred_output": [{"role": "assistant", "content": "Hello!"}], "non_preferred_output": [{"role": "assistant", "content": "What?"}]}'],
  ];

  function draw() {
    const { preview, trouble, loading, file } = state;
    if (!file) return mount(result, h("details", null, h("summary", null, "What a row looks like"), h("dl", { class: "stack samples" }, EXAMPLES.map(([label, line]) => h("div", null, h("dt", { class: "dim small" }, label), h("dd", { class: "mono text" }, line))))));
    if (loading) return mount(result, h("div", { class: "panel skeleton", role: "status" }, h("span", { class: "dim" }, `Reading ${file.name}…`), h("i"), h("i"), h("i")));
    if (!preview) return mount(result, failure(trouble, check));
    const pairs = preview.kind === "preferences";
    const most = Math.max(1, ...preview.outputs.map((o) => o.rows));
    return mount(result,
      trouble ? failure(trouble, start) : null,
      panel(file.name, [badge(bytes(file.size)), badge(pairs ? "preferences" : "examples")],
        facts([
          [pairs ? "Pairs" : "Examples", integer(preview.examples), preview.duplicates ? `${integer(preview.duplicates)} twice` : `in ${count(preview.rows, "row")}`],
          pairs ? null : ["Held out", integer(preview.held_out), "to test it with"],
          ["Wrong rows", integer(preview.wrong_count), preview.wrong_count ? "to mend first" : ""],
          ["Different answers", integer(preview.distinct_outputs)],
          ["Steps", pairs ? "as few as it takes" : integer(preview.steps), pairs ? "" : `${count(preview.epochs, "pass", "passes")}, ${preview.batch_size} at once`],
          ["Size", `at most ${bytes(preview.bytes)}`],
          ["Time", preview.seconds === null ? "not known yet" : `about ${duration(preview.seconds)}`, preview.seconds === null ? "no training to go by" : "as the last one took"],
        ].filter(Boolean))),
      preview.wrong_count ? panel("Rows that cannot be learned from", h("span", { class: "dim small" }, preview.wrong_count > preview.wrong.length ? `the first ${preview.wrong.length}` : null),
        h("div", { class: "scroll" }, h("table", { class: "table" }, h("thead", null, h("tr", null, ["Row", "Why", "What to do"].map((label) => h("th", { scope: "col" }, label)))),
          h("tbody", null, preview.wrong.map((line) => h("tr", null, h("td", { class: "num nowrap" }, line.row), h("td", { class: "text" }, line.message), h("td", { class: "text dim" }, line.hint))))))) : null,
      preview.conflicts.length ? note("warn", `${count(preview.conflicts.length, "prompt")} with different answers`, preview.conflicts.map((c) => `${c.rows.join(", ")}: “${c.prompt}” → ${c.answers.join(" / ")}`).join("\n")) : null,
      preview.ignored.length ? note("", "Columns that are not read", preview.ignored.join(", ")) : null,
      preview.examples ? h("div", { class: "split" },
        panel("The first rows", null, h("table", { class: "table" }, h("thead", null, h("tr", null, ["Prompt", pairs ? "Preferred" : "Answer"].map((label) => h("th", { scope: "col" }, label)))), h("tbody", null, preview.sample.map((row) => h("tr", null, h("td", { class: "text" }, row.prompt), h("td", { class: "text" }, row.output)))))),
        panel("The most frequent answers", null, h("div", { class: "body" }, h("ul", { class: "bars" }, preview.outputs.map((o) => h("li", null, h("span", { class: "clip", title: o.output }, o.output), h("progress", { class: "progress", max: most, value: o.rows, "aria-label": `${o.rows} rows` }), h("span", { class: "num dim" }, integer(o.rows)))))))) : null,
      preview.wrong_count ? note("warn", "Mend the wrong rows first", "A training takes a whole file or nothing, so that no example is lost without a word.") : null,
      h("div", { class: "row" }, h("button", { type: "button", class: "button primary", disabled: Boolean(preview.wrong_count) || !preview.examples || !view.can("train"), onclick: start }, "Start training"), h("span", { class: "dim small" }, "It gives way to answers, and can be paused.")));
  }

  function drawJobs({ jobs: list }) {
    mount(jobs, list.length ? panel("Trainings", null, h("table", { class: "table cards" }, h("thead", null, h("tr", null, ["Adapter", "State", "What came of it", "Started"].map((label) => h("th", { scope: "col" }, label)))),
      h("tbody", null, list.slice(0, 20).map((job) => h("tr", null, h("td", null, h("a", { class: "name", href: `train/${part(job.id)}`, "data-key": job.id }, job.adapter)), h("td", null, jobBadge(job)), h("td", { class: "text wide" }, job.fine_tuned_model ?? job.error?.message ?? job.waiting_for ?? (job.steps ? `step ${job.step} of ${job.steps}` : "–")), h("td", { "data-label": "Started" }, when(job.created_at))))))) : null);
  }

  mount(view.main, head({ title: "Train", lead: "Teach an adapter from a file of examples. The new version is served if it keeps what the adapter knew." }),
    h("div", { class: "panel" }, h("div", { class: "body split" }, field("Which adapter learns", target), nameField)), drop, result, jobs);
  drawJobs(activity);
  draw();
  view.onChange = async (changed) => { if ([...changed].some((name) => name === "*" || name.startsWith("job:"))) drawJobs(await get("v1/activity", view.stop.signal)); };
  return undefined;
}

/** One training, while it runs and after. */
async function showJob(view) {
  const { job: id } = view.params;
  const path = `v1/fine_tuning/jobs/${part(id)}`;
  const past = new Map();

  async function load() {
    const [job, events, activity] = await Promise.all([get(path, view.stop.signal), get(`${path}/events?limit=1000`, view.stop.signal), get("v1/activity", view.stop.signal)]);
    const row = activity.jobs.find((other) => other.id === id);
    const others = activity.jobs.filter((other) => other.adapter === row?.adapter && other.id !== id && other.status === "succeeded").slice(0, 2);
    for (const other of others) if (!past.has(other.id)) past.set(other.id, { label: other.fine_tuned_model, points: readLosses((await get(`v1/fine_tuning/jobs/${part(other.id)}/events?limit=1000`, view.stop.signal)).data) });
    draw({ ...row, ...job, adapter: row?.adapter ?? job.fine_tuned_model?.split("@")[0] ?? job.model }, events.data);
  }

  const act = (verb) => async () => { await post(`${path}/${verb}`); await load(); };

  function draw(job, events) {
    const points = readLosses(events);
    const running = !FINAL.includes(job.status);
    const candidate = events.find((event) => event.data?.verdict);
    view.title(`Training of ${job.adapter}`);
    mount(view.main,
      head({
        crumbs: [["train", "Train"]], title: job.adapter, badges: jobBadge(job),
        lead: job.waiting_for ?? (running && job.steps ? `Step ${integer(job.step)} of ${integer(job.steps)}${job.estimated_finish ? `, about ${duration(Math.max(1, job.estimated_finish - Date.now() / 1000))} left` : ""}` : events[0]?.message),
        actions: [
          running && view.can("train") ? (job.paused ? button("Go on", act("resume"), { kind: "primary", key: "resume" }) : button("Pause", act("pause"), { key: "pause", title: "Stop at the last checkpoint, to go on later" })) : null,
          running && view.can("train") ? button("Cancel", act("cancel"), { kind: "danger", key: "cancel", title: "Stop for good: the adapter stays as it was" }) : null,
          job.fine_tuned_model ? link(askPath(job.adapter), [icon("playground"), "Ask it"], "button primary") : null,
          job.fine_tuned_model ? link(adapterPath(job.adapter), "See the verdict") : null,
        ],
      }),
      running && job.steps ? h("progress", { class: "progress", max: job.steps, value: job.step, "aria-label": `Step ${job.step} of ${job.steps}` }) : null,
      job.error ? note("bad", job.error.code === "refused" ? "The gate refused the new version" : "The training failed", job.error.message, candidate ? link(askPath(candidate.data.version), `Ask ${candidate.data.version}`) : null) : null,
      panel("Training loss", job.steps ? badge(percent(job.step / job.steps)) : null, h("div", { class: "body" }, lossCurve([{ label: "this", points }, ...past.values()].filter((run, i) => !i || run.points.length > 1)))),
      panel("What happened", h("span", { class: "dim small" }, "newest first"), events.length ? h("table", { class: "table" }, h("tbody", null, events.filter((event) => event.type !== "metrics").map((event) => h("tr", null, h("td", { class: "text" }, h("span", { class: event.level === "error" ? "bad" : event.level === "warn" ? "warn" : "" }, event.message)), h("td", { class: "right" }, when(event.created_at)))))) : empty("activity", "Nothing yet", "Events appear here as they happen.")));
  }

  await load();
  view.onChange = (changed) => (changed.has("*") || changed.has(`job:${id}`) ? load() : null);
}

function readLosses(events) {
  return events.filter((event) => event.type === "metrics").map((event) => [event.data.step, event.data.train_loss]).filter(([, loss]) => Number.isFinite(loss)).sort((a, b) => a[0] - b[0]);
}
