// The page of all sessions.

import { meter } from "./charts.js";
import { el, settle, show } from "./dom.js";
import { chip, costCell, link } from "./parts.js";
import { makeTable } from "./table.js";
import { clock, count, kind, money, nowOf, seconds, span } from "./words.js";

export function sessionsPage(main) {
  let data = null;
  const box = el("div", { "data-own": true, "data-key": "table" });
  const table = makeTable({
    label: "Sessions",
    key: (one) => one.id,
    text: (one) => [one.name, one.state, one.model, one.workDir, one.activity, ...one.tags].join(" "),
    now: () => nowOf(data),
    groups: [
      { id: "all", title: "all", has: () => true },
      { id: "live", title: "live", has: (one) => one.alive },
      { id: "asks", title: "waiting for you", has: (one) => one.openQuestions > 0 || one.state === "needs_input" },
      { id: "bad", title: "ended otherwise", has: (one) => !one.alive && kind(one.state) === "bad" },
    ],
    columns: [
      {
        id: "name",
        title: "Session",
        wide: true,
        value: (one) => one.name.toLowerCase(),
        cell: (one) => [
          link("sessions", one.name, one.file),
          one.openQuestions > 0 && [" ", el("span", { class: "chip wait" }, count(one.openQuestions, "question"))],
          one.activity && el("span", { class: "under", dir: "auto" }, one.activity),
        ],
      },
      { id: "state", title: "State", value: (one) => one.state, cell: (one) => chip(one.frozen ? "frozen" : one.state) },
      {
        id: "cost",
        title: "Cost",
        number: true,
        value: (one) => one.totalCostUsd,
        cell: (one) => costCell(one.totalCostUsd, one.costExact, one.limits.maxCost),
      },
      {
        id: "turns",
        title: "Turns",
        number: true,
        extra: true,
        value: (one) => one.totalTurns,
        cell: (one) => `${one.totalTurns}${one.limits.maxTurns ? ` of ${one.limits.maxTurns}` : ""}`,
      },
      {
        id: "elapsed",
        title: "Elapsed",
        number: true,
        extra: true,
        value: (one) => elapsed(one, nowOf(data)),
        cell: (one, now) => span(elapsed(one, now)),
      },
      {
        id: "created",
        title: "Started",
        number: true,
        extra: true,
        value: (one) => one.created,
        cell: (one, now) => `${span(now - seconds(one.created))} ago`,
      },
      { id: "model", title: "Model", extra: true, value: (one) => one.model, cell: (one) => one.model },
      {
        id: "folder",
        title: "Folder",
        extra: true,
        value: (one) => one.workDir,
        cell: (one) => el("bdi", { class: "path", title: one.workDir }, one.workDir),
      },
    ],
  });

  function again() {
    show(box, table.view());
  }

  table.attach(box, again);
  return {
    title: "Sessions",
    again() {
      if (data) again();
    },
    sessions(found) {
      data = found;
      table.rows = found.sessions;
      const live = found.sessions.filter((one) => one.alive);
      const asks = found.sessions.filter((one) => one.openQuestions > 0);
      show(
        main,
        el("h1", {}, "Sessions"),
        el(
          "p",
          { class: "sum" },
          [
            `${live.length} live`,
            `${live.filter((one) => one.status === "busy").length} busy`,
            asks.length ? `${asks.length} waiting for you` : null,
            found.spentToday === null ? null : `${money(found.spentToday)} today`,
            found.total > found.sessions.length
              ? `the newest ${found.sessions.length} of ${count(found.total, "session")}`
              : null,
          ]
            .filter(Boolean)
            .join(" · "),
        ),
        found.plan.length > 0 &&
          el(
            "dl",
            { class: "facts plan", "aria-label": "What of the plan is used" },
            found.plan.map((one) =>
              el(
                "div",
                {},
                el("dt", {}, `Plan, ${one.called}`),
                el(
                  "dd",
                  {},
                  one.status === "rejected" ? "full" : one.used === null ? "not told" : `${Math.round(100 * one.used)} % used`,
                  one.resetsAt && el("span", { class: "dim" }, `, until ${clock(seconds(one.resetsAt), nowOf(data))}`),
                  one.used !== null && meter(one.used, 1),
                ),
              ),
            ),
          ),
        el("div", { "data-key": "table" }),
      );
      settle(main, box);
      again();
    },
  };
}

function elapsed(one, now) {
  return (one.alive ? now : seconds(one.lastSaved)) - seconds(one.created);
}
