// The page of one session: what it asks, what it came to, what it cost, what it said, what it changed.

import { costChart } from "./charts.js";
import { el, settle, show } from "./dom.js";
import { diffView } from "./diff.js";
import { block, chip, costCell, facts, isAnother, scrolls, section } from "./parts.js";
import { questionForms } from "./questions.js";
import { clock, count, money, nowOf, plain, seconds, size, span } from "./words.js";

const SHOWN = 300; // moments at first; the others by a button
const LABELS = {
  start: "started", prompt: "prompt", text: "claude", tool: "tool", failed: "failed", refused: "refused",
  asks: "asks", answered: "answered", retry: "retry", note: "note", done: "done", stderr: "stderr",
};

export function sessionPage(main, act) {
  let data = null;
  let cost = null;
  let diff = null;
  let moments = [];
  let dropped = 0;
  let most = SHOWN;
  const talk = el("ol", { class: "talk", "data-own": true, "data-key": "talk" });
  const drawn = []; // a node for each moment that is shown

  function redraw() {
    if (data === null) return;
    const { session, last } = data;
    const live = session.alive;
    const now = nowOf(data);
    show(
      main,
      el("div", { class: "title" }, el("h1", {}, session.name), chip(session.state), live && act && buttons(session)),
      isAnother(session) ? el("p", { class: "asks" }, "Another session has this name now: the one of the task was renamed or deleted.") : null,
      live && data.activity ? el("p", { class: "sum", dir: "auto" }, data.activity) : null,
      data.live ? liveFacts(data.live) : null,
      questionForms(data, act),
      section("facts", "At a glance", sessionFacts(session, last, now, live)),
      last && section("verdict", "Checks and verdict", verdict(session, last), !live && goOn(data)),
      section(
        "cost",
        "Cost",
        cost && cost.points.length > 1 && session.totalCostUsd > 0
          ? costChart(
              cost.points.map(([at, usd]) => [at, usd]),
              session.limits.maxCost,
              live ? now : null,
            )
          : el("p", { class: "dim" }, `${money(session.totalCostUsd, session.costExact)} so far.`),
      ),
      section(
        "conversation",
        "Conversation",
        earlier(),
        el("ol", { "data-key": "talk" }),
        moments.length ? null : el("p", { class: "dim" }, "Nothing was said yet."),
      ),
      (session.isolate !== "no" || diff) && section("changes", "Changes", diffView(diff, session.name)),
    );
    settle(main, talk);
  }

  function earlier() {
    const hidden = Math.max(0, moments.length - most);
    if (!hidden && !dropped) return null;
    return el(
      "p",
      { class: "earlier" },
      hidden ? el("button", { type: "button", "data-earlier": true }, `Show ${hidden.toLocaleString("en")} earlier`) : null,
      dropped ? ` ${dropped.toLocaleString("en")} moments before that are not shown here: cms logs has all.` : null,
    );
  }

  // Each moment is drawn once, and again only where it has grown: the list is longer than all else.
  function say(from) {
    const first = Math.max(0, moments.length - most);
    while (drawn.length && drawn[drawn.length - 1].place >= from) drawn.pop().node.remove();
    while (drawn.length && drawn[0].place < first) drawn.shift().node.remove();
    const next = drawn.length ? drawn[drawn.length - 1].place + 1 : first;
    for (let place = next; place < moments.length; place += 1) {
      const node = momentItem(moments[place]);
      talk.append(node);
      drawn.push({ place, node });
    }
  }

  main.addEventListener("click", (event) => {
    if (event.target.closest("[data-earlier]")) {
      most += 1000;
      for (const { node } of drawn.splice(0)) node.remove();
      say(0);
      redraw();
    }
  });

  return {
    get title() {
      return data ? data.session.name : "Session";
    },
    again() {
      if (data && data.session.alive) redraw();
    },
    session(found) {
      data = found;
      redraw();
    },
    moments(found) {
      dropped = found.dropped;
      moments = moments.slice(0, found.from).concat(found.moments);
      if (found.from === 0) for (const { node } of drawn.splice(0)) node.remove();
      say(found.from);
      redraw();
    },
    cost(found) {
      cost = found;
      redraw();
    },
    diff(found) {
      diff = found;
      redraw();
    },
  };
}

function buttons(session) {
  return el(
    "span",
    { class: "acts" },
    el("button", { type: "button", "data-act": "stop", "data-name": session.name }, "Stop"),
    el("button", { type: "button", class: "danger", "data-act": "kill", "data-name": session.name }, "Kill"),
  );
}

function liveFacts(live) {
  const words = [
    live.frozen ? "frozen" : null,
    live.queued ? `${count(live.queued, "message")} waiting` : null,
    live.processes === 1 ? "1 process" : `${live.processes} processes`,
    size(live.memory),
  ];
  return el("p", { class: "dim" }, words.filter(Boolean).join(" · "));
}

function sessionFacts(session, last, now, live) {
  const limits = session.limits;
  return facts([
    ["Cost", el("span", {}, costCell(session.totalCostUsd, session.costExact, limits.maxCost))],
    ["Turns", `${session.totalTurns}${limits.maxTurns ? ` of ${limits.maxTurns}` : ""}`],
    ["Tool calls", `${session.toolCalls}${limits.maxToolCalls ? ` of ${limits.maxToolCalls}` : ""}`],
    ["Time limit", limits.maxTime ? span(limits.maxTime) : ""],
    ["Elapsed", span((live ? now : seconds(session.lastSaved)) - seconds(session.created))],
    ["Started", clock(seconds(session.created), now)],
    ["Folder", el("bdi", {}, session.workDir)],
    ["Model", session.model],
    ["Preset", session.preset],
    ["Tags", session.tags.join(", ")],
    ["Error", session.error && last && session.error === last.error ? "" : session.error],
  ]);
}

function verdict(session, last) {
  const ended = Boolean(last.ended);
  const passed = last.outcome === "completed";
  return [
    el(
      "p",
      {},
      ended && last.outcome ? chip(last.outcome) : chip(last.state),
      ended ? ` after ${count(last.turns, "turn")}, ${span(last.duration / 1000)}, ${money(last.cost, last.costExact)}` : null,
    ),
    last.error && !last.reasons.includes(last.error) && block(last.error, "bad"),
    last.reasons.length > 0 && el("ul", { class: "reasons" }, last.reasons.map((one) => el("li", { dir: "auto" }, one))),
    session.verify.length > 0 &&
      el(
        "ul",
        { class: "checks", "aria-label": "Checks" },
        session.verify.map((command) =>
          el("li", {}, el("span", { class: `chip ${passed ? "good" : "rest"}` }, passed ? "✓ passed" : checkWord(last)), " ", el("code", {}, command)),
        ),
      ),
    last.judge &&
      el(
        "p",
        {},
        el("span", { class: `chip ${last.judge.verdict === "pass" ? "good" : "bad"}` }, `judge: ${last.judge.verdict}`),
        " ",
        el("span", { dir: "auto" }, last.judge.reason),
      ),
    last.denials.length > 0 &&
      el(
        "details",
        { "data-key": "denials" },
        el("summary", {}, `${count(last.denials.length, "refused call")}`),
        el("ul", {}, last.denials.map((one) => el("li", { dir: "auto" }, `${one.tool} ${one.detail}: ${one.reason}`))),
      ),
    last.response && [el("h3", {}, "Answer"), block(last.response)],
    last.output !== null && [el("h3", {}, "Output"), block(JSON.stringify(last.output, null, 2))],
  ];
}

function goOn(data) {
  if (!data.nextStep || data.unanswered) return null; // said above
  return [el("h3", {}, "To go on"), block(data.nextStep)];
}

function checkWord(last) {
  if (last.state === "checking") return "● checking";
  if (last.outcome === "verification_failed") return "see above";
  return last.ended ? "not run" : "not yet";
}

function momentItem(one) {
  const parts = [];
  if (one.kind === "done") {
    parts.push(one.cost === null ? "" : money(one.cost), one.text ? ` ${one.text}` : "");
  } else if (one.tool) {
    parts.push(el("b", {}, one.tool), " ", one.text);
  } else {
    parts.push(one.text);
  }
  if (one.more) parts.push(el("span", { class: "dim" }, ` … ${one.more.toLocaleString("en")} more characters: cms logs has them`));
  return el(
    "li",
    { class: `moment m-${one.kind}${one.isError ? " bad" : ""}${one.subagent ? " sub" : ""}` },
    el("span", { class: "when" }, el("b", {}, one.isError ? "error" : plain(LABELS[one.kind] || one.kind)), " ", el("time", {}, clock(seconds(one.at)))),
    el("div", scrolls(one.text, "said"), parts),
  );
}
