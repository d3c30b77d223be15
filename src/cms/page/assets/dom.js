// Elements made of values. Whatever a session, a repository or a file says becomes a text node or an
// attribute: nothing here takes HTML, and the page's policy (Trusted Types) lets nothing else do so either.

// What would not show as itself, or would turn around what stands beside it.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;
const SVG = "http://www.w3.org/2000/svg";

/** A text in which nothing hides: "\u202e" for a character that turns the text around. */
function open(text) {
  return String(text)
    .replaceAll("\r\n", "\n")
    .replace(UNSEEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** An element: attributes (false and null leave one out), then children: nodes, texts, lists of them. */
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value === true ? "" : open(value));
    }
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(node, child);
    else if (child instanceof Node) node.append(child);
    else if (child !== null && child !== undefined && child !== false) node.append(open(child));
  }
}

/** Make a node's children like `wanted`, in place: what is the same stays, with its focus and scroll. */
export function show(parent, ...wanted) {
  const box = document.createDocumentFragment();
  append(box, wanted);
  children(parent, [...box.childNodes]);
}

/** Put a box that fills itself (`data-own`) where `show` left a place of its key; the next `show` keeps it. */
export function settle(parent, box) {
  const place = parent.querySelector(`[data-key="${box.dataset.key}"]`);
  if (place !== box) place.replaceWith(box);
}

function children(parent, wanted) {
  const byKey = new Map();
  for (const node of parent.childNodes) {
    if (node.dataset && node.dataset.key) byKey.set(node.dataset.key, node);
  }
  let place = parent.firstChild;
  for (const node of wanted) {
    const key = node.dataset && node.dataset.key;
    const old = key ? byKey.get(key) : place;
    if (old && alike(old, node)) {
      byKey.delete(key);
      if (old === place) place = place.nextSibling;
      else parent.insertBefore(old, place);
      same(old, node);
    } else {
      parent.insertBefore(node, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function alike(old, node) {
  if (old.nodeType !== node.nodeType || old.nodeName !== node.nodeName) return false;
  return old.nodeType !== Node.ELEMENT_NODE || (old.dataset.key || "") === (node.dataset.key || "");
}

function same(old, node) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== node.data) old.data = node.data;
    return;
  }
  if (old.hasAttribute("data-own")) return; // somebody else fills it
  for (const { name } of [...old.attributes]) {
    // What the person opened or wrote is theirs.
    if (!node.hasAttribute(name) && name !== "open" && name !== "value") old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  children(old, [...node.childNodes]);
}
