// Drawings: a curve over steps, a small trend, and the map of probe groups by version.

import { h, svg, decimal, integer, percent } from "./dom.js";

const PAD = { left: 44, right: 12, top: 10, bottom: 24 };

/** Losses by step. `runs` are [{label, points: [[step, loss]]}], the newest first; others are drawn faint. */
export function lossCurve(runs) {
  const points = runs.flatMap((run) => run.points);
  if (points.length < 2) return h("p", { class: "dim small" }, "The curve appears after the first steps.");
  const WIDTH = matchMedia("(max-width: 800px)").matches ? 420 : 1060;
  const HEIGHT = 220;
  const last = Math.max(...points.map(([step]) => step));
  const top = Math.max(...points.map(([, loss]) => loss)) * 1.05 || 1;
  const x = (step) => PAD.left + ((WIDTH - PAD.left - PAD.right) * (step - 1)) / Math.max(1, last - 1);
  const y = (loss) => PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - loss / top);
  const path = (run) => run.points.map(([step, loss], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => share * top);
  const cursor = svg("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, x1: -10, x2: -10 });
  const dot = svg("circle", { class: "dot", r: 4, cx: -10, cy: -10 });
  const newest = runs[0].points;
  const caption = h("figcaption");
  const describe = ([step, loss]) => caption.replaceChildren(h("span", null, `Step ${integer(step)}`), h("span", null, `loss ${decimal(loss)}`), ...runs.slice(1).map((run) => h("span", null, `faint: ${run.label}`)));
  describe(newest.at(-1));
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Training loss from ${decimal(newest[0][1])} to ${decimal(newest.at(-1)[1])} over ${newest.at(-1)[0]} steps`,
    onpointermove: (event) => {
      const box = drawing.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * WIDTH;
      const nearest = newest.reduce((best, point) => (Math.abs(x(point[0]) - at) < Math.abs(x(best[0]) - at) ? point : best));
      for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(nearest[0]));
      dot.setAttribute("cx", x(nearest[0]));
      dot.setAttribute("cy", y(nearest[1]));
      describe(nearest);
    },
    onpointerleave: () => describe(newest.at(-1)),
  },
  ticks.map((value) => [
    svg("line", { class: "grid", x1: PAD.left, x2: WIDTH - PAD.right, y1: y(value), y2: y(value) }),
    svg("text", { x: PAD.left - 8, y: y(value) + 4, "text-anchor": "end" }, decimal(value)),
  ]),
  [...new Set([1, Math.ceil(last / 2), last])].map((step) => svg("text", { x: x(step), y: HEIGHT - 6, "text-anchor": step === last ? "end" : step === 1 ? "start" : "middle" }, integer(step))),
  runs.slice(1).toReversed().map((run) => svg("path", { class: "line past", d: path(run) })),
  svg("path", { class: "line", d: path(runs[0]) }), cursor, dot);
  return h("figure", { class: "chart" }, drawing, caption);
}

/** Accuracy from version to version, small. */
export function sparkline(shares) {
  if (shares.length < 2) return h("span", { class: "dim small" }, "–");
  const x = (i) => 2 + (80 * i) / (shares.length - 1);
  const y = (share) => 21 - 18 * share;
  const d = shares.map((share, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(share).toFixed(1)}`).join("");
  return svg("svg", { class: "spark", viewBox: "0 0 84 24", role: "img", "aria-label": `Accuracy of the last versions: ${shares.map(percent).join(", ")}` },
    svg("path", { d }), svg("circle", { cx: x(shares.length - 1), cy: y(shares.at(-1)), r: 2.2 }));
}

/** What the gate saw of each version: known answers, held-out examples, pins, and groups of probes. */
export function heatMap(versions, open) {
  const names = { known: "all that was known", arrived: "held out when trained", pinned: "pinned answers" };
  const rows = new Map();
  for (const version of versions) {
    for (const check of version.checks) {
      if (!check.answers || check.name === "creep") continue;
      const label = check.name === "class" ? (check.group ?? "a group whose example was erased") : names[check.name];
      const key = `${check.name} ${check.name === "class" ? label : ""}`;
      if (!rows.has(key)) rows.set(key, { label, cells: new Map(), group: check.name === "class" });
      const { before, after, rows: asked } = check.answers;
      const cell = rows.get(key).cells.get(version.number) ?? { asked: 0, right: 0, before: 0, lost: 0 };
      rows.get(key).cells.set(version.number, { asked: cell.asked + asked, right: cell.right + Math.round(after * asked), before: cell.before + Math.round(before * asked), lost: cell.lost + check.lost });
    }
  }
  const order = [...rows.values()].sort((a, b) => a.group - b.group || a.label.localeCompare(b.label));
  return order.length ? drawMap(order, versions.filter((version) => version.checks.length).slice(-16), open) : null;
}

/** The same probes asked of every version, by the answer that they share: a small group that was lost shows
 * under a healthy mean. `results` has, for each version's number, whether each probe was right. */
export function groupMap(versions, probes, results, open) {
  const sizes = new Map();
  for (const { output } of probes) sizes.set(output, (sizes.get(output) ?? 0) + 1);
  const labels = probes.map(({ output }) => (sizes.get(output) > 1 ? output : "answers that occur once"));
  const rows = [...new Set(labels)].sort().map((label) => ({ label, cells: new Map() }));
  rows.unshift({ label: "all probes", cells: new Map() });
  for (const row of rows) {
    let before = null;
    for (const version of versions) {
      const right = results.get(version.number).filter((_, i) => row.label === "all probes" || labels[i] === row.label);
      const lost = before ? right.filter((now, i) => before[i] && !now).length : 0;
      row.cells.set(version.number, { asked: right.length, right: right.filter(Boolean).length, before: before?.filter(Boolean).length ?? 0, lost });
      if (!version.refused) before = right;
    }
  }
  return drawMap(rows, versions, open);
}

function drawMap(order, shown, open) {
  const cell = (row, version) => {
    const at = row.cells.get(version.number);
    if (!at) return h("td", null, h("span", { class: "visually-hidden" }, "not asked"));
    const fell = at.lost > 0 && at.right < at.before;
    const words = `${row.label}, version ${version.number}: ${at.right} of ${at.asked} right, ${at.before} before${at.lost ? `, ${at.lost} lost` : ""}`;
    const td = h("td", { class: `value${fell ? " fell" : ""}`, title: words }, percent(at.right / at.asked), h("small", null, `${at.right}/${at.asked}`));
    td.style.setProperty("--share", at.right / at.asked);
    return td;
  };
  return h("div", { class: "stack" },
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Probe groups by version" }, h("table", { class: "heat" },
      h("thead", null, h("tr", null, h("td", { class: "visually-hidden" }), shown.map((version) => h("th", { scope: "col", class: version.served ? "served" : version.refused ? "bad" : "" }, h("a", { href: open(version) }, `@${version.number}`))))),
      h("tbody", null, order.map((row) => h("tr", null, h("th", { scope: "row", title: row.label }, row.label), shown.map((version) => cell(row, version))))))),
    h("div", { class: "legend" }, h("span", null, h("i", { class: "ramp" }), "0 to 100% right"), h("span", null, h("i", { class: "fell" }), "lost answers it knew"), h("span", null, h("i"), "not asked")));
}
