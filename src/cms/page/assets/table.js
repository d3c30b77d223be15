// A table that stays useful with ten thousand rows: filtered, sorted and shown a page at a time.

import { el } from "./dom.js";
import { count } from "./words.js";

const PAGE = 100;

/**
 * A table's choices and what it shows.
 * `columns`: {id, title, value(row) to sort by, cell(row), number?, extra? (left out where it is narrow)}.
 * `groups`: {id, title, has(row)} to choose from; `text(row)` is searched.
 */
export function makeTable({ label, columns, groups, text, key, now }) {
  // As the rows came, until a person chooses an order.
  const state = { sort: "", descending: false, words: "", group: groups[0].id, page: 0 };
  let rows = [];

  function chosen() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const group = groups.find((one) => one.id === state.group);
    const found = rows.filter((row) => {
      if (!group.has(row)) return false;
      if (!words.length) return true;
      const where = text(row).toLowerCase();
      return words.every((word) => where.includes(word));
    });
    const column = columns.find((one) => one.id === state.sort);
    if (!column) return found;
    const sign = state.descending ? -1 : 1;
    const none = (value) => value === null || value === undefined || value === "";
    return found
      .map((row, place) => [column.value(row), place, row])
      .sort(([one, first], [other, second]) => {
        if (none(one) || none(other)) return none(one) - none(other) || first - second;
        return (one < other ? -sign : one > other ? sign : 0) || first - second;
      })
      .map(([, , row]) => row);
  }

  function head(column) {
    const sorted = state.sort === column.id;
    const arrow = sorted ? (state.descending ? " ▾" : " ▴") : "";
    return el(
      "th",
      {
        scope: "col",
        class: classes(column),
        "aria-sort": sorted ? (state.descending ? "descending" : "ascending") : null,
      },
      el(
        "button",
        { type: "button", class: "sort", "data-sort": column.id },
        column.title,
        el("span", { "aria-hidden": "true" }, arrow),
      ),
    );
  }

  function view() {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * PAGE;
    const part = found.slice(first, first + PAGE);
    const shown = found.length
      ? `${first + 1} to ${first + part.length} of ${found.length.toLocaleString("en")}`
      : "none";
    return [
      el(
        "div",
        { class: "choices" },
        el("label", {}, el("span", {}, "Find"), el("input", { type: "search", "data-find": true, autocomplete: "off" })),
        el(
          "label",
          {},
          el("span", {}, "Show"),
          el(
            "select",
            { "data-group": true },
            groups.map((one) => el("option", { value: one.id }, `${one.title} (${rows.filter(one.has).length})`)),
          ),
        ),
        el("p", { class: "count", role: "status" }, found.length === rows.length ? count(rows.length, "row") : `${shown}`),
      ),
      el(
        "div",
        { class: "scroll", role: "region", "aria-label": `Table: ${label}`, tabindex: "0" },
        el(
          "table",
          {},
          el("caption", { class: "unseen" }, label),
          el("thead", {}, el("tr", {}, columns.map(head))),
          el(
            "tbody",
            {},
            part.map((row) =>
              el(
                "tr",
                { "data-key": key(row) },
                columns.map((column) =>
                  el(
                    column.wide ? "th" : "td",
                    { class: classes(column), scope: column.wide ? "row" : null },
                    column.cell(row, now()),
                  ),
                ),
              ),
            ),
            part.length ? null : el("tr", {}, el("td", { colspan: columns.length, class: "none" }, "Nothing to show.")),
          ),
        ),
      ),
      pages > 1 &&
        el(
          "nav",
          { class: "pages", "aria-label": `Pages of ${label}` },
          el("button", { type: "button", "data-turn": -1, disabled: state.page === 0 }, "Previous"),
          el("span", {}, `${shown}, page ${state.page + 1} of ${pages}`),
          el("button", { type: "button", "data-turn": 1, disabled: state.page === pages - 1 }, "Next"),
        ),
    ];
  }

  /** Take part in the events of a box that shows `view()`; `again` shows it once more. */
  function attach(box, again) {
    box.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.sort) {
        const column = columns.find((one) => one.id === button.dataset.sort);
        state.descending = state.sort === column.id ? !state.descending : Boolean(column.number);
        state.sort = column.id;
      } else if (button.dataset.turn) {
        state.page += Number(button.dataset.turn);
      } else return;
      again();
    });
    box.addEventListener("input", (event) => {
      if ("find" in event.target.dataset) state.words = event.target.value;
      else if ("group" in event.target.dataset) state.group = event.target.value;
      else return;
      state.page = 0;
      again();
    });
  }

  return {
    view,
    attach,
    set rows(found) {
      rows = found;
    },
  };
}

function classes(column) {
  return [column.number && "n", column.extra && "extra", column.wide && "wide"].filter(Boolean).join(" ") || null;
}
