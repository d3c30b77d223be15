// What several pages show alike.

import { el } from "./dom.js";
import { meter } from "./charts.js";
import { cap, icon, kind, money, plain } from "./words.js";

const page = document.documentElement.dataset;

/** Where a page is: a path of the server, or in an export the `file` that its data names; else null. */
function address(what, name, file) {
  if (page.where === "live") return `${page.base}${what}/${encodeURIComponent(name)}`;
  return file || null;
}

/** A link to a page, or the words alone where there is none. `id`: of the session that is meant, if known. */
export function link(what, name, file, id = "") {
  const where = address(what, name, file);
  return where ? el("a", { href: id ? `${where}?id=${encodeURIComponent(id)}` : where }, name) : el("span", {}, name);
}

/** Whether a page of that name was opened to see another session, which had the name before. */
export function isAnother(session) {
  const meant = new URLSearchParams(location.search).get("id");
  return Boolean(meant) && meant !== session.id;
}

/** A state as an icon and a word: never by colour alone. */
export function chip(state) {
  return el(
    "span",
    { class: `chip ${kind(state)}` },
    el("span", { "aria-hidden": "true", class: "icon" }, icon(state)),
    " ",
    plain(state),
  );
}

/** What was spent, of what may be, and how much of it that is. */
export function costCell(spent, exact, limit) {
  return [
    el("span", {}, money(spent, exact)),
    limit ? el("span", { class: "dim of" }, ` of ${cap(limit)}`) : null,
    meter(spent, limit),
  ];
}

/** Names and values. Pairs without a value are left out. */
export function facts(pairs) {
  return el(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

/** A part of a page with its heading. */
export function section(id, title, ...children) {
  return el(
    "section",
    { "aria-labelledby": `${id}-title`, "data-key": id, id },
    el("h2", { id: `${id}-title` }, title),
    ...children,
  );
}

/** What a text needs that has a scroll bar of its own: a keyboard must get there. */
export function scrolls(text, name = "") {
  const long = text.length > 1500 || text.split("\n").length > 15;
  return { class: long ? `${name} long` : name, dir: "auto", ...(long ? { tabindex: 0, role: "group", "aria-label": "Long text" } : {}) };
}

/** Text as it is, over several lines. */
export function block(text, name = "") {
  return el("pre", scrolls(text, `text ${name}`.trim()), text);
}
