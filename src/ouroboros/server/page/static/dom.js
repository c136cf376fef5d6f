// Elements from values. Text only ever becomes text nodes: an answer of a model is hostile input.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children. `on...` are listeners, `class` and others attributes. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for a drawing. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flatten(children));
  return element;
}

function flatten(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replace what an element holds, and give the focus back to the element with the same `data-key`. */
export function mount(element, ...children) {
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const open = new Set([...element.querySelectorAll("details[open][data-key]")].map((d) => d.dataset.key));
  element.replaceChildren(...flatten(children));
  for (const details of element.querySelectorAll("details[data-key]")) {
    if (open.has(details.dataset.key)) details.open = true;
  }
  if (key) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

const ICONS = {
  adapters: "M8 2 2 5l6 3 6-3-6-3ZM2 8l6 3 6-3M2 11l6 3 6-3",
  playground: "M2.5 3.5h11v7h-6l-3 2.5v-2.5h-2z",
  train: "M8 10V2.5M5 5.5l3-3 3 3M2.5 10v3.5h11V10",
  feedback: "M5 7 7.5 2c1 0 1.7.8 1.5 1.8L8.600 6H13l-1.200 6.500H5zM5 7H2.500v5.500H5",
  activity: "M1.500 8.500h3l2-5 3 9 2-4h3",
  check: "m3 8.500 3.200 3L13 4.500",
  cross: "m4 4 8 8m0-8-8 8",
  up: "M5 7 7.500 2c1 0 1.700.8 1.500 1.800L8.600 6H13l-1.200 6.500H5zM5 7H2.500v5.500H5",
  down: "M11 9 8.500 14c-1 0-1.700-.8-1.500-1.800L7.400 10H3l1.200-6.500H11zM11 9h2.500V3.500H11",
  pen: "m3 13 .700-3L10.500 3.200l2.300 2.300L6 12.300z",
  undo: "M5.500 3 2.500 6l3 3M2.500 6H10a3.500 3.500 0 0 1 0 7H6",
  pin: "M8 10v4M5 2.500h6l-.800 3.800L12 10H4l1.800-3.700z",
  plus: "M8 3v10M3 8h10",
  merge: "M4 2.500v3C4 8 8 8 8 10.500v3M12 2.500v3C12 8 8 8 8 10.500",
  warning: "M8 2.500 14 13H2zM8 6.500v3M8 11.300v.1",
  info: "M8 7.300v3.500M8 5v.1M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12",
  search: "M7 11.500a4.500 4.500 0 1 0 0-9 4.500 4.500 0 0 0 0 9M10.500 10.500l3 3",
  file: "M4 2h5l3.500 3.500V14H4zM9 2v3.500h3.500",
  spark: "M8 2v3M8 11v3M2 8h3M11 8h3M4 4l2 2M10 10l2 2M12 4l-2 2M6 10l-2 2",
  theme: "M8 2.500a5.500 5.500 0 1 0 0 11zM8 2.500a5.500 5.500 0 0 1 0 11",
  compare: "M5.500 3v10M10.500 3v10M2.500 5.500h3M10.500 5.500h3M2.500 10.500h3M10.500 10.500h3",
};

export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

// Numbers and dates as the reader's language writes them.

const integers = new Intl.NumberFormat();
const percents = new Intl.NumberFormat(undefined, { style: "percent" });
const decimals = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const integer = (value) => integers.format(value);
export const percent = (value) => percents.format(value);
export const decimal = (value) => decimals.format(value);

export function bytes(count) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const level = count < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** level;
  const digits = level && value < 100 ? 1 : 0;
  return new Intl.NumberFormat(undefined, {
    style: "unit", unit: units[level], unitDisplay: "short", maximumFractionDigits: digits,
  }).format(value);
}

export function duration(seconds) {
  const [value, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  return new Intl.NumberFormat(undefined, {
    style: "unit", unit, unitDisplay: "short", maximumFractionDigits: value < 10 ? 1 : 0,
  }).format(value);
}

/** When something was, in words; the exact time as a tooltip and for programs. */
export function when(timestamp) {
  const date = new Date(timestamp * 1000);
  const seconds = Math.round((date - Date.now()) / 1000);
  const [unit, length] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]].find(
    ([, size]) => Math.abs(seconds) >= size,
  ) ?? ["second", 1];
  const words = Math.abs(seconds) < 10 ? "just now" : relative.format(Math.trunc(seconds / length), unit);
  return h("time", { datetime: date.toISOString(), title: dates.format(date), class: "dim small nowrap" }, words);
}

/** "1 version", "3 versions". */
export function count(number, noun, plural = `${noun}s`) {
  return `${integer(number)} ${number === 1 ? noun : plural}`;
}
