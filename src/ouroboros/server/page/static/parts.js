// Parts that several views share.

import { h, icon, mount, svg, percent, integer } from "./dom.js";

/** A table's empty state: what would be here, and the way to get it. */
export function empty(iconName, title, words, ...actions) {
  return h("div", { class: "empty" }, icon(iconName), h("h2", null, title), h("p", null, words), h("div", { class: "row" }, actions));
}

export function skeleton(lines = 6) {
  return h("div", { class: "panel skeleton", role: "status" }, h("span", { class: "visually-hidden" }, "Loading"), Array.from({ length: lines }, () => h("i")));
}

const NOTE_ICONS = { bad: "warning", warn: "warning", good: "check" };

export function note(kind, title, words, ...actions) {
  return h("div", { class: `note ${kind}`, role: kind === "bad" ? "alert" : "status" }, icon(NOTE_ICONS[kind] ?? "info"), h("div", { class: "grow" }, h("strong", null, title), words && h("span", { class: "small text" }, words)), actions);
}

/** What went wrong, with a way to try again. */
export function failure(error, retry) {
  if (error.status === 404) return h("div", { class: "panel" }, empty("search", "This does not exist", error.message, link("adapters", "See all adapters")));
  const title = error.status === 0 ? "The server cannot be reached" : error.status === 403 ? "This key may not do that" : "That did not work";
  return note("bad", title, error.message, retry && button("Try again", retry));
}

export function button(label, onclick, { kind = "", name, pressed, disabled, key, title } = {}) {
  return h("button", {
    type: "button", class: `button ${kind}`, onclick, disabled, "data-key": key, title,
    "aria-pressed": pressed === undefined ? null : String(pressed), "aria-label": name,
  }, label);
}

export function link(path, label, kind = "button") {
  return h("a", { href: path, class: kind }, label);
}

export function badge(words, kind = "") {
  return h("span", { class: `badge ${kind}` }, words);
}

export function panel(title, tools, ...body) {
  return h("section", { class: "panel" }, h("header", null, h("h2", null, title), tools), body);
}

export function head({ crumbs = [], title, lead, badges, actions }) {
  return h("div", { class: "head" },
    h("div", { class: "grow" },
      crumbs.length ? h("div", { class: "crumbs" }, crumbs.map(([path, label], i) => [i ? h("span", { "aria-hidden": "true" }, "/") : null, h("a", { href: path }, label)])) : null,
      h("div", { class: "row" }, h("h1", null, title), badges),
      lead && h("p", { class: "lead" }, lead)),
    h("div", { class: "row" }, actions));
}

export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", null, label), control, hint && h("small", null, hint));
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([label, value, more]) => h("div", null, h("dt", null, label), h("dd", null, value, more && h("small", null, " ", more)))));
}

/** The share of probes answered right, with its interval drawn: few probes, a wide bar. */
export function interval(accuracy) {
  if (!accuracy) return h("span", { class: "dim" }, "not measured");
  const { right, rows, low, high } = accuracy;
  const words = `${right} of ${rows} probes right, between ${percent(low)} and ${percent(high)} with 95% confidence`;
  return h("span", { class: "interval", title: words },
    h("span", { class: "num" }, h("strong", null, percent(right / rows)), h("span", { class: "dim small" }, ` ${integer(right)} of ${integer(rows)}`)),
    svg("svg", { viewBox: "0 0 108 8", role: "img", "aria-label": words },
      svg("rect", { class: "track", x: 0, y: 2.5, width: 108, height: 3, rx: 1.5 }),
      svg("rect", { class: "range", x: 108 * low, y: 1.5, width: Math.max(2, 108 * (high - low)), height: 5, rx: 2.5 }),
      svg("rect", { class: "point", x: Math.min(105, Math.max(0, (108 * right) / rows - 1.5)), y: 0, width: 3, height: 8, rx: 1.5 })));
}

/** A form in a dialog. `submit` gets the form's values, and may throw: the error is shown in the dialog. */
export function ask({ title, words, fields = [], action, danger, submit }) {
  const trouble = h("div", { hidden: true });
  const confirm = h("button", { type: "submit", class: `button ${danger ? "danger" : "primary"}` }, action);
  const dialog = h("dialog", { "aria-label": title },
    h("form", {
      method: "dialog",
      onsubmit: async (event) => {
        event.preventDefault();
        confirm.disabled = true;
        trouble.hidden = true;
        try {
          await submit(Object.fromEntries(new FormData(event.target)));
          dialog.close();
        } catch (error) {
          trouble.hidden = false;
          mount(trouble, failure(error));
        } finally {
          confirm.disabled = false;
        }
      },
    },
    h("h2", null, title), words && h("p", { class: "dim" }, words), fields, trouble,
    h("div", { class: "actions" }, button("Cancel", () => dialog.close()), confirm)));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A message that goes by itself, with one thing that can be done about it. */
export function toast(words, action, onclick) {
  let area = document.querySelector(".toasts");
  if (!area) {
    area = h("div", { class: "toasts", role: "status" });
    document.body.append(area);
  }
  const item = h("div", { class: "toast" }, h("span", { class: "grow" }, words), action && h("button", { type: "button", onclick: () => { item.remove(); onclick(); } }, action));
  area.append(item);
  setTimeout(() => item.remove(), action ? 12000 : 6000);
}

export function adapterPath(name, ...rest) {
  return ["adapters", name, ...rest].map(encodeURIComponent).join("/");
}

export function askPath(name) {
  return `playground?a=${encodeURIComponent(name)}`;
}

/** The last turn of a conversation, as one line. */
export const lastTurn = (messages) => messages?.at(-1)?.content ?? "";
