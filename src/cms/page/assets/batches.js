// The page of all batches, and the page of one.

import { lane, shares, workChart } from "./charts.js";
import { el, settle, show } from "./dom.js";
import { chip, costCell, facts, link, section } from "./parts.js";
import { makeTable } from "./table.js";
import { clock, count, kind, money, nowOf, plain, seconds, span } from "./words.js";

const ORDER = ["good", "bad", "wait", "work", "rest"];
// States of tasks that are not over.
const OPEN = ["waiting", "running"];

export function batchesPage(main) {
  return {
    title: "Batches",
    batches(found) {
      const now = nowOf(found);
      const begun = found.batches.map((one) => seconds(one.started || one.created));
      const first = Math.min(...begun, now);
      const last = Math.max(...found.batches.map((one) => end(one, now)), first + 1);
      show(
        main,
        el("h1", {}, "Batches"),
        found.batches.length
          ? el(
              "div",
              { class: "scroll", role: "region", "aria-label": "Batches", tabindex: "0" },
              el(
                "table",
                {},
                el("caption", { class: "unseen" }, "Batches, newest first"),
                el(
                  "thead",
                  {},
                  el(
                    "tr",
                    {},
                    ["Batch", "State", "Tasks", "Cost"].map((title) => el("th", { scope: "col" }, title)),
                    el("th", { scope: "col", class: "extra" }, "Started"),
                    el("th", { scope: "col", class: "extra" }, "Took"),
                    el("th", { scope: "col", class: "extra lanes" }, "Time line"),
                  ),
                ),
                el(
                  "tbody",
                  {},
                  found.batches.map((one) =>
                    el(
                      "tr",
                      { "data-key": one.id },
                      el("th", { scope: "row" }, link("batches", one.id, one.file), el("span", { class: "under" }, el("bdi", {}, one.source))),
                      el("td", {}, chip(one.status)),
                      el("td", {}, `${done(one)} of ${one.total}`, shares(parts(one))),
                      el("td", {}, costCell(one.spent, one.exact, one.maxCost)),
                      el("td", { class: "extra" }, clock(seconds(one.started), now)),
                      el("td", { class: "extra" }, one.started ? span(end(one, now) - seconds(one.started)) : ""),
                      el("td", { class: "extra lanes" }, lane(seconds(one.started), end(one, now), first, last, kind(one.status))),
                    ),
                  ),
                ),
              ),
            )
          : el("p", { class: "dim" }, "No batch was run yet. cms batch --file TASKS starts one."),
      );
    },
  };
}

function end(batch, now) {
  return seconds(batch.ended) || (batch.started ? now : seconds(batch.created));
}

function done(batch) {
  return Object.entries(batch.counts).reduce(
    (sum, [state, number]) => sum + (OPEN.includes(state) ? 0 : number),
    0,
  );
}

function parts(batch) {
  const sums = {};
  for (const [state, number] of Object.entries(batch.counts)) sums[kind(state)] = (sums[kind(state)] || 0) + number;
  return ORDER.filter((name) => sums[name]).map((name) => ({ kind: name, number: sums[name] }));
}

export function batchPage(main) {
  let data = null;
  const rows = new Map();
  let range = [0, 0];
  const box = el("div", { "data-own": true, "data-key": "table" });
  const table = makeTable({
    label: "Tasks",
    key: (one) => one.name,
    text: (one) => [one.name, one.status, one.model, one.error, one.response, one.node, one.cell].join(" "),
    now: () => nowOf(data),
    groups: [
      { id: "all", title: "all", has: () => true },
      { id: "bad", title: "did not complete", has: (one) => !OPEN.includes(one.status) && one.status !== "completed" },
      { id: "work", title: "at work", has: (one) => one.status === "running" },
      { id: "rest", title: "waiting", has: (one) => one.status === "waiting" },
      { id: "good", title: "completed", has: (one) => one.status === "completed" },
    ],
    columns: [
      { id: "place", title: "#", number: true, extra: true, value: (one) => one.place, cell: (one) => one.place + 1 },
      {
        id: "name",
        title: "Task",
        wide: true,
        value: (one) => one.name,
        cell: (one) => [
          one.tries > 0 ? link("sessions", one.name, one.file, one.sessionId) : one.name,
          one.chosen && [" ", el("span", { class: "chip good" }, "chosen")],
          one.node && el("span", { class: "under" }, `on ${one.node} (${one.host})`),
          one.reused && el("span", { class: "under" }, `result of ${one.reused}`),
          (one.error || one.response || changed(one)) &&
            el("span", { class: "under answer", dir: "auto" }, [one.error, changed(one), one.response].filter(Boolean).join(" · ")),
        ],
      },
      { id: "status", title: "State", value: (one) => one.status, cell: (one) => chip(one.status) },
      { id: "cost", title: "Cost", number: true, value: (one) => one.cost, cell: (one) => money(one.cost, one.costExact) },
      { id: "turns", title: "Turns", number: true, extra: true, value: (one) => one.turns, cell: (one) => one.turns },
      { id: "tries", title: "Tries", number: true, extra: true, value: (one) => one.tries, cell: (one) => one.tries },
      {
        id: "took",
        title: "Took",
        number: true,
        extra: true,
        value: (one) => one.duration,
        cell: (one) => (one.duration ? span(one.duration / 1000) : ""),
      },
      { id: "model", title: "Model", extra: true, value: (one) => one.model, cell: (one) => one.model },
      {
        id: "line",
        title: "Time line",
        extra: true,
        value: (one) => one.started,
        cell: (one, now) => lane(seconds(one.started), seconds(one.ended) || now, range[0], range[1], kind(one.status)),
      },
    ],
  });

  function again() {
    show(box, table.view());
  }

  function redraw() {
    if (data === null) return;
    const { batch, scores, byModel } = data;
    const now = nowOf(data);
    const bars = [];
    let first = Infinity, last = 0;
    for (const one of rows.values()) {
      const from = seconds(one.started);
      if (from === null) continue;
      const to = seconds(one.ended) || now;
      first = Math.min(first, from);
      last = Math.max(last, to);
      bars.push({ from, to, kind: kind(one.status) });
    }
    range = [first, last];
    table.rows = [...rows.values()].sort((one, other) => one.place - other.place);
    const dear = [...rows.values()].filter((one) => one.cost > 0).sort((one, other) => other.cost - one.cost).slice(0, 10);
    show(
      main,
      el("div", { class: "title" }, el("h1", {}, `Batch ${batch.id}`), chip(batch.status)),
      batch.reason && el("p", { class: "sum", dir: "auto" }, batch.reason),
      shares(parts(batch)),
      el(
        "ul",
        { class: "key", "aria-label": "Tasks by state" },
        Object.entries(batch.counts)
          .filter(([, number]) => number)
          .map(([state, number]) => el("li", {}, el("span", { class: `dot fill-${kind(state)}`, "aria-hidden": "true" }), `${number.toLocaleString("en")} ${plain(state)}`)),
      ),
      section("facts", "At a glance", batchFacts(batch, now)),
      scores.rows.length > 0 && section("scores", "What passed", simpleTable("What passed", scores.heads, scores.rows)),
      bars.length > 0 && section("line", "Time line", workChart(bars)),
      section("tasks", "Tasks", el("div", { "data-key": "table" }), data.leftOut > 0 && el("p", { class: "dim" }, `${count(data.leftOut, "more task")} not shown here.`)),
      Object.keys(byModel).length > 0 &&
        section(
          "models",
          "Cost by model",
          simpleTable("Cost by model", ["model", "cost"], Object.entries(byModel).sort((one, other) => other[1] - one[1]).map(([model, cost]) => [model, money(cost)])),
        ),
      dear.length > 0 &&
        section("dear", "Most expensive tasks", simpleTable("Most expensive tasks", ["task", "cost", "turns"], dear.map((one) => [one.name, money(one.cost, one.costExact), one.turns]))),
    );
    settle(main, box);
    again();
  }

  table.attach(box, again);
  return {
    get title() {
      return data ? `Batch ${data.batch.id}` : "Batch";
    },
    batch(found) {
      data = found;
      redraw();
    },
    tasks(found) {
      if (found.from === 0) rows.clear();
      for (const one of found.tasks) rows.set(one.name, one);
      redraw();
    },
  };
}

function changed(one) {
  if (one.patch) return `patch: ${one.patch}`;
  const { change } = one;
  if (!change || (!change.files && !change.commits && !change.note)) return "";
  const commits = change.commits ? `, ${count(change.commits, "commit")}` : "";
  return `${count(change.files, "file")}, +${change.added} −${change.removed}${commits}, ${change.state}${change.note ? `: ${change.note}` : ""}`;
}

function batchFacts(batch, now) {
  return facts([
    ["Tasks", `${done(batch)} of ${batch.total} ended`],
    ["Cost", el("span", {}, costCell(batch.spent, batch.exact, batch.maxCost))],
    ["At once", batch.ended ? "" : batch.parallel || ""],
    ["Left", batch.eta === null || batch.ended ? "" : span(batch.eta)],
    ["Reused", batch.reused ? `${count(batch.reused, "result")} of earlier batches` : ""],
    ["Started", clock(seconds(batch.started), now)],
    ["Took", batch.started ? span(end(batch, now) - seconds(batch.started)) : ""],
    ["File", el("bdi", {}, batch.source)],
    ["Table", batch.table],
    ["Folder", el("bdi", { class: "path" }, batch.workDir)],
    ["Warnings", batch.warnings.length ? el("span", { dir: "auto" }, batch.warnings.join("; ")) : ""],
  ]);
}

function simpleTable(label, heads, rows) {
  return el(
    "div",
    { class: "scroll", role: "region", "aria-label": `Table: ${label}`, tabindex: "0" },
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, label),
      el("thead", {}, el("tr", {}, heads.map((head, place) => el("th", { scope: "col", class: place ? "n" : null }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, place) => el(place ? "td" : "th", { class: place ? "n" : null, scope: place ? null : "row", dir: "auto" }, cell))))),
    ),
  );
}
