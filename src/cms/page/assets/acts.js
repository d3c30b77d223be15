// What a person does to a session from the page: answer, stop, kill. Only with `cms view --act`.

import { el, show } from "./dom.js";
import { answersOf } from "./questions.js";

const WORDS = {
  stop: { title: "Stop this session?", text: "is ended politely and can be resumed later.", button: "Stop it" },
  kill: { title: "Kill this session?", text: "and every process that it started are ended by force, at once. It can be resumed later.", button: "Kill it" },
};

export function act(main, settings) {
  const state = document.getElementById("said");

  async function post(body) {
    show(state, "…");
    try {
      const answer = await fetch(settings.acts, {
        method: "POST",
        credentials: "same-origin",
        headers: { "Content-Type": "application/json", "X-CMS-Token": settings.csrf },
        body: JSON.stringify(body),
      });
      const found = await answer.json();
      show(state, [found.message, found.hint].filter(Boolean).join(": "));
      return answer.ok;
    } catch {
      show(state, "cms view does not answer: is it still running?");
      return false;
    }
  }

  main.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    if (!button) return;
    const what = button.dataset.act;
    confirm(WORDS[what], button.dataset.name, () => post({ act: what, name: button.dataset.name }));
  });

  main.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-answer]");
    if (!form) return;
    event.preventDefault();
    const how = event.submitter ? event.submitter.value : "answer";
    const body = { act: "answer", name: form.dataset.name, id: form.dataset.answer, texts: [], deny: how === "deny", message: "" };
    const message = form.querySelector("input[name=message]");
    if (message) body.message = message.value;
    if (how === "allow") body.texts = ["allow"];
    if (how === "answer") {
      const texts = answersOf(form);
      if (texts === null) {
        show(state, "Choose an answer for each question, or write one.");
        return;
      }
      body.texts = texts;
    }
    post(body);
  });
}

function confirm({ title, text, button }, name, then) {
  const dialog = el(
    "dialog",
    { "aria-labelledby": "sure-title", "aria-describedby": "sure-text" },
    el("h2", { id: "sure-title" }, title),
    el("p", { id: "sure-text" }, el("b", {}, name), ` ${text}`),
    el(
      "p",
      { class: "acts" },
      el("button", { type: "button", "data-no": true, autofocus: true }, "Leave it"),
      el("button", { type: "button", class: "danger", "data-yes": true }, button),
    ),
  );
  dialog.addEventListener("click", (event) => {
    if (event.target.closest("[data-yes]")) then();
    if (event.target.closest("button")) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
