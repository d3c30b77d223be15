// What a session has changed: the numbers, then the patch, a file at a time.

import { el } from "./dom.js";
import { block } from "./parts.js";
import { count } from "./words.js";

const OPEN = 20; // files that are open at first
const LONG = 2000; // lines of a file that are shown

export function diffView(diff, name) {
  if (diff === null) return el("p", { class: "dim" }, "Not looked at yet.");
  if (diff.error) return el("p", { class: "dim" }, diff.error);
  const { change } = diff;
  return [
    el(
      "p",
      {},
      `${count(change.files, "file")}, +${change.added} −${change.removed}, ${change.state}`,
      diff.live ? " (as it stood when it was looked at; it is still at work)" : "",
      change.note ? `: ${change.note}` : "",
    ),
    diff.commits.length > 0 && el("ul", {}, diff.commits.map((one) => el("li", { dir: "auto" }, `commit: ${one}`))),
    diff.leftOut.length > 0 &&
      el("ul", {}, diff.leftOut.slice(0, 50).map((one) => el("li", { dir: "auto" }, `left out: ${one.path}: ${one.why}`))),
    files(diff.patch).map(({ title, lines }, place) =>
      el(
        "details",
        { class: "file", "data-key": `file-${place}`, open: place < OPEN },
        el("summary", { dir: "auto" }, title),
        el(
          "pre",
          { class: "patch", tabindex: "0", role: "region", "aria-label": `Patch of ${title}` },
          lines.slice(0, LONG).map((line) => el("span", { class: `l ${lineKind(line)}` }, `${line}\n`)),
          lines.length > LONG ? `… ${lines.length - LONG} more lines` : null,
        ),
      ),
    ),
    diff.cut ? el("p", { class: "dim" }, `The patch is longer: cms diff ${name} has all of it.`) : null,
    change.files > 0 && diff.state !== "applied" && block(`cms apply ${name}`),
  ];
}

function files(patch) {
  const found = [];
  for (const line of patch.replace(/\n$/, "").split("\n")) {
    if (line.startsWith("diff --git ")) {
      found.push({ title: line.slice(11).replace(/^a\/(.*) b\/\1$/, "$1"), lines: [] });
    } else if (found.length) {
      found[found.length - 1].lines.push(line);
    }
  }
  return found;
}

function lineKind(line) {
  if (line.startsWith("@@")) return "at";
  if (line.startsWith("+++") || line.startsWith("---")) return "head";
  if (line.startsWith("+")) return "plus";
  return line.startsWith("-") ? "minus" : "";
}
