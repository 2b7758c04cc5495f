// Elements from data. Text only ever becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  like: "M7 10v11H3V10zM7 10l5-8c2 0 3 1 3 3l-1 4h6c1.5 0 2 1 2 2l-2 8c-.3 1-1 2-2 2H7",
  dislike: "M7 14V3H3v11zM7 14l5 8c2 0 3-1 3-3l-1-4h6c1.5 0 2-1 2-2l-2-8c-.3-1-1-2-2-2H7",
  seen: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  why: "M4 20V11M10 20V4M16 20v-6M21 20v-9",
  close: "M6 6l12 12M18 6L6 18",
  earlier: "M12 19V5M5 12l7-7 7 7",
  later: "M12 5v14M5 12l7 7 7-7",
};

/** An element: attributes, `on…` listeners, children (nodes and texts; empty ones are skipped). */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false && c !== ""));
  return node;
}

export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

/** A round button that shows an icon alone; `label` is its name. */
export function iconButton(name, label, onclick, props = {}) {
  return el("button", { type: "button", class: "round", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

export const $ = (id) => document.getElementById(id);

/** Say something to a screen reader, without showing it. */
export function say(text) {
  $("said").textContent = text;
}

// --- pictures -----------------------------------------------------------------------------------

/** A box of a poster's shape with the item's initials, and its picture over them once that has come. */
export function picture(item, eager = false) {
  const box = el("div", { class: "poster", "aria-hidden": "true" }, el("span", {}, initials(item.title)));
  box.style.setProperty("--hue", hue(item.title));
  const source = sameOrigin(item.image);
  if (!source) return box;
  // beside the title the picture says nothing more to a screen reader
  box.append(el("img", {
    alt: "", src: source, loading: eager ? "eager" : "lazy", decoding: "async", onerror: (event) => event.target.remove(),
  }));
  return box;
}

function sameOrigin(path) {
  if (!path) return "";
  const url = new URL(path, location.origin);
  return url.origin === location.origin ? url.pathname + url.search : "";
}

/** "The Dark Knight" -> "DK"; a script without spaces gives its first sign. */
export function initials(title) {
  const words = String(title).replace(/^(the|a|an)\s+/i, "").match(/[\p{L}\p{N}]+/gu) ?? ["?"];
  return words.slice(0, 2).map((w) => [...w][0].toUpperCase()).join("");
}

function hue(title) {
  let sum = 0;
  for (const c of String(title)) sum = (sum * 31 + c.codePointAt(0)) % 360;
  return sum;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const number = (value, digits = 2) => Number(value).toFixed(digits).replace(/^-/, "−");
export const signed = (value, digits = 2) => (value > 0 ? "+" : "") + number(value, digits);
