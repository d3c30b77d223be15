// Charts, drawn by hand. Each says in words what it shows, for who does not see it.

import { svg } from "./dom.js";
import { cap, clock, count, money, span } from "./words.js";

const WIDE = 960;

/** How much of a limit is used, as a thin bar. The words stand beside it. */
export function meter(used, limit) {
  if (!limit) return null;
  const part = Math.max(0, Math.min(1, used / limit));
  return svg(
    "svg",
    { class: "meter", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 100, height: 4 }),
    svg("rect", { class: part > 0.9 ? "fill-bad" : "fill-work", width: 100 * part, height: 4 }),
  );
}

/** Cost over time, as a line that only goes up, against its limit. `points`: [seconds, dollars]. */
export function costChart(points, limit, now) {
  if (!points.length) return null;
  const high = 190, left = 84, right = WIDE - 12, top = 22, bottom = high - 26;
  const first = points[0][0];
  const last = Math.max(points[points.length - 1][0], now || 0, first + 1);
  const step = nice(Math.max(limit || 0, ...points.map(([, cost]) => cost), 0.001) / 3);
  const most = step * Math.ceil((Math.max(limit || 0, ...points.map(([, cost]) => cost)) * 1.05) / step) || step;
  const x = (at) => left + ((right - left) * (at - first)) / (last - first);
  const y = (cost) => bottom - ((bottom - top) * cost) / most;
  let path = `M${x(first).toFixed(1)} ${y(0).toFixed(1)}`;
  for (const [at, cost] of points) path += `H${x(at).toFixed(1)}V${y(cost).toFixed(1)}`;
  path += `H${x(last).toFixed(1)}`;
  const spent = points[points.length - 1][1];
  const of = limit ? ` of ${cap(limit)}` : "";
  const told = `Cost over time: ${money(spent)}${of} in ${span(last - first)}`;
  const ticks = Array.from({ length: Math.round(most / step) + 1 }, (_, place) => place * step).map((value) => [
    svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, cap(value)),
  ]);
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDE} ${high}`, role: "img", "aria-label": told },
    ticks,
    limit && [
      svg("line", { class: "limit", x1: left, x2: right, y1: y(limit), y2: y(limit) }),
      svg("text", { class: "limit-word", x: right, y: y(limit) - 5, "text-anchor": "end" }, `limit ${cap(limit)}`),
    ],
    svg("path", { class: "area", d: `${path}V${bottom}H${x(first).toFixed(1)}Z` }),
    svg("path", { class: "line", d: path }),
    axis(first, last, left, right, high),
  );
}

/** 1, 2 or 5 times a power of ten, not below `value`. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((times) => times * power).find((one) => one >= value * 0.999);
}

function axis(first, last, left, right, high) {
  return [
    svg("text", { x: left, y: high - 6 }, clock(first)),
    svg("text", { x: right, y: high - 6, "text-anchor": "end" }, `${clock(last)} (${span(last - first)})`),
  ];
}

const COLUMNS = 120;
const ORDER = ["good", "bad", "wait", "rest", "work"];

/** How many tasks were at work at each time, by how they ended. `bars`: {from, to, kind}. */
export function workChart(bars) {
  if (!bars.length) return null;
  const high = 150, left = 40, right = WIDE - 12, top = 10, bottom = high - 26;
  let first = Infinity, last = -Infinity;
  for (const bar of bars) {
    first = Math.min(first, bar.from);
    last = Math.max(last, bar.to);
  }
  last = Math.max(last, first + 1);
  const step = (last - first) / COLUMNS;
  const columns = Array.from({ length: COLUMNS }, () => ({}));
  for (const bar of bars) {
    const begin = Math.min(COLUMNS - 1, Math.floor((bar.from - first) / step));
    const end = Math.max(begin, Math.min(COLUMNS - 1, Math.ceil((bar.to - first) / step) - 1));
    for (let at = begin; at <= end; at += 1) {
      // The share of the column in which it was at work: short tasks are no taller than they were long.
      const share = Math.min(bar.to, first + (at + 1) * step) - Math.max(bar.from, first + at * step);
      columns[at][bar.kind] = (columns[at][bar.kind] || 0) + Math.max(share / step, 0);
    }
  }
  const sums = columns.map((column) => Object.values(column).reduce((sum, one) => sum + one, 0));
  const most = Math.max(1, ...sums);
  const width = (right - left) / COLUMNS;
  const drawn = columns.flatMap((column, place) => {
    let y = bottom;
    return ORDER.filter((name) => column[name] > 0.001).map((name) => {
      const tall = ((bottom - top) * column[name]) / most;
      y -= tall;
      return svg("rect", {
        class: `fill-${name}`,
        x: (left + place * width).toFixed(2),
        y: y.toFixed(2),
        width: Math.max(width - 1, 1).toFixed(2),
        height: tall.toFixed(2),
      });
    });
  });
  const told = `Time line: ${count(bars.length, "task")} in ${span(last - first)}, at most ${Math.round(most)} at once`;
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDE} ${high}`, role: "img", "aria-label": told },
    [0, most].map((value) => {
      const y = bottom - ((bottom - top) * value) / most;
      return [
        svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
        svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, Math.round(value)),
      ];
    }),
    drawn,
    axis(first, last, left, right, high),
  );
}

/** One bar on a time line that all rows share. */
export function lane(from, to, first, last, kind) {
  if (from === null || last <= first) return null;
  const x = (200 * (from - first)) / (last - first);
  const width = Math.max(1.5, (200 * (to - from)) / (last - first));
  return svg(
    "svg",
    { class: "lane", viewBox: "0 0 200 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 200, height: 10 }),
    svg("rect", { class: `fill-${kind}`, x: Math.min(x, 198.5), width, height: 10 }),
  );
}

/** Shares of a whole, beside each other. `parts`: {kind, number}. */
export function shares(parts) {
  const whole = parts.reduce((sum, one) => sum + one.number, 0) || 1;
  let x = 0;
  return svg(
    "svg",
    { class: "shares", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 100, height: 4 }),
    parts.map(({ kind, number }) => {
      const width = (100 * number) / whole;
      x += width;
      return svg("rect", { class: `fill-${kind}`, x: x - width, width, height: 4 });
    }),
  );
}
