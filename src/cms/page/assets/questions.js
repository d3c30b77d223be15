// What waits for a person's word, and the forms that give it.

import { el } from "./dom.js";
import { block } from "./parts.js";
import { nowOf, seconds, span } from "./words.js";

/** The open questions of a session; null where there are none. */
export function questionForms(data, act) {
  const { session, questions, unanswered } = data;
  if (!questions.length && !unanswered) return null;
  return el(
    "section",
    { class: "asks", "aria-labelledby": "asks-title", "data-key": "asks" },
    el("h2", { id: "asks-title" }, questions.length ? "It waits for you" : "It needed a person"),
    questions.map((one) => (act ? form(session.name, one, data) : told(session.name, one, data))),
    unanswered && (act && unanswered.questions.length ? goOn(session.name, unanswered) : ended(unanswered, data.nextStep)),
  );
}

function left(one, data) {
  return el("p", { class: "dim" }, `It waits ${span(seconds(one.expires) - nowOf(data))} more.`);
}

function wanted(one) {
  return [el("p", {}, "It wants to use ", el("b", {}, one.tool), ":"), block(one.whole || one.detail)];
}

function form(name, one, data) {
  if (one.kind === "permission") {
    return el(
      "form",
      { "data-key": `ask-${one.id}`, "data-answer": one.id, "data-name": name },
      wanted(one),
      left(one, data),
      el("label", {}, el("span", {}, "If not, why (for the model)"), el("input", { name: "message", autocomplete: "off" })),
      el(
        "p",
        { class: "acts" },
        el("button", { type: "submit", value: "allow" }, "Allow"),
        el("button", { type: "submit", value: "deny", class: "danger" }, "Deny"),
      ),
    );
  }
  return el(
    "form",
    { "data-key": `ask-${one.id}`, "data-answer": one.id, "data-name": name },
    one.questions.map((question, place) => answerField(question, question.choices, place)),
    left(one, data),
    el(
      "p",
      { class: "acts" },
      el("button", { type: "submit", value: "answer" }, "Answer"),
      el("button", { type: "submit", value: "deny", class: "danger" }, "Refuse to answer"),
    ),
  );
}

function answerField(question, choices, place) {
  return el(
    "fieldset",
    { "data-question": place },
    el("legend", { dir: "auto" }, question.question),
    choices.map((choice, at) =>
      el(
        "label",
        { class: "choice" },
        // The label as it came: what is shown may differ in what would not be seen.
        Object.assign(
          el("input", { type: question.multiSelect ? "checkbox" : "radio", name: `q${place}`, value: at + 1 }),
          { label: choice.label },
        ),
        el("span", { dir: "auto" }, choice.label, choice.description && el("span", { class: "under" }, choice.description)),
      ),
    ),
    el(
      "label",
      {},
      el("span", {}, choices.length ? "Or in your own words" : "Your answer"),
      el("input", { name: `own${place}`, autocomplete: "off" }),
    ),
  );
}

function goOn(name, one) {
  return el(
    "form",
    { "data-key": "unanswered", "data-answer": "", "data-name": name },
    one.questions.map((question, place) => answerField(question, question.options.map((label) => ({ label })), place)),
    el("p", { class: "dim" }, "Its message has ended; your answer is a new one, which costs as such."),
    el("p", { class: "acts" }, el("button", { type: "submit", value: "answer" }, "Answer and go on")),
  );
}

function told(name, one, data) {
  const how = one.kind === "permission" ? `cms answer ${name} allow` : `cms answer ${name} ${one.questions.map(() => "ANSWER").join(" ")}`;
  return el(
    "div",
    { "data-key": `ask-${one.id}` },
    one.kind === "permission"
      ? wanted(one)
      : one.questions.map((question) => [
          el("p", { dir: "auto" }, question.question),
          el("ol", {}, question.choices.map((choice) => el("li", { dir: "auto" }, choice.label))),
        ]),
    left(one, data),
    block(how),
  );
}

function ended(one, nextStep) {
  return el(
    "div",
    { "data-key": "unanswered" },
    one.questions.map((question) => [
      el("p", { dir: "auto" }, question.question),
      el("ol", {}, question.options.map((label) => el("li", { dir: "auto" }, label))),
    ]),
    one.denials.slice(0, 5).map((denial) => el("p", { dir: "auto" }, `${denial.tool} ${denial.detail}: ${denial.reason}`)),
    el("p", { class: "dim" }, "Its message has ended; it goes on with:"),
    nextStep && block(nextStep),
  );
}

/** What a form says: the texts of `cms answer`, or null where one is missing. */
export function answersOf(node) {
  const texts = [];
  for (const set of node.querySelectorAll("[data-question]")) {
    const own = set.querySelector("input[name^=own]").value.trim();
    const chosen = [...set.querySelectorAll("input:checked")].map((one) => one.label);
    if (!own && !chosen.length) return null;
    texts.push(own || chosen.join(", "));
  }
  return texts;
}
