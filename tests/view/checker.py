"""Accessibility, by rules of our own and by axe-core where that can be had (`CMS_AXE`, see `.ci/run`)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import msgspec

from view.browser import Page


@cache
def _axe() -> str:
    path = os.environ.get("CMS_AXE", "")
    return Path(path).read_text() if path else ""


def faults(page: Page) -> list[str]:
    """What is wrong with the page as it stands, for who uses it by ear, by keyboard, or with weak eyes."""
    found = _own(page)
    if axe := _axe():
        if not page.js("Boolean(window.axe)"):
            page.js(f"(() => {{ {axe} }})()")
        told = page.js(
            "axe.run(document, {resultTypes: ['violations'], preload: false})"
            ".then((found) => found.violations.map((one) =>"
            " `${one.id}: ` + one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join('; ')))"
        )
        found += msgspec.convert(told, list[str])
    return found


#: Where axe cannot be had: names, headings, landmarks, and no element that a keyboard cannot reach.
_RULES = """(() => {
  const found = [];
  const seen = (one) => one.getClientRects().length > 0;
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  if ([...document.querySelectorAll("h1")].filter(seen).length !== 1) found.push("not one h1");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the window");
  if (!document.title) found.push("no title");
  if (!document.documentElement.lang) found.push("no language");
  let level = 0;
  for (const one of document.querySelectorAll("main h1, main h2, main h3")) {
    const own = Number(one.tagName[1]);
    if (own > level + 1) found.push(`heading ${one.innerText} skips a level`);
    level = own;
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) found.push("an id twice");
  for (const name of ["aria-labelledby", "aria-describedby"]) {
    for (const one of document.querySelectorAll(`[${name}]`)) {
      const id = one.getAttribute(name);
      if (!document.getElementById(id)) found.push(`no element ${id}`);
    }
  }
  for (const one of document.querySelectorAll("button, a, summary")) {
    const name = one.innerText.trim() || one.getAttribute("aria-label");
    if (seen(one) && !name) found.push(`no name: ${one.outerHTML}`);
  }
  for (const one of document.querySelectorAll("input, select")) {
    if (!one.labels.length && !one.getAttribute("aria-label")) found.push(`no label: ${one.outerHTML}`);
  }
  for (const one of document.querySelectorAll("svg")) {
    const told = one.getAttribute("role") === "img" && one.getAttribute("aria-label");
    if (one.getAttribute("aria-hidden") !== "true" && !told) found.push("a picture without words");
  }
  for (const one of document.querySelectorAll("*")) {
    const style = getComputedStyle(one);
    const scrolls = /auto|scroll/.test(style.overflowX + style.overflowY)
      && (one.scrollHeight > one.clientHeight + 1 || one.scrollWidth > one.clientWidth + 1);
    if (scrolls && one.tabIndex < 0 && one !== document.scrollingElement) {
      found.push(`scrolls, and no key reaches it: ${one.className}`);
    }
  }
  return found;
})()"""


def _own(page: Page) -> list[str]:
    return msgspec.convert(page.js(_RULES), list[str])
