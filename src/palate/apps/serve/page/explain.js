// What mattered: how much an item's score falls when one thing at a time is left out, as signed bars with numbers.

import { api } from "./api.js";
import { $, capital, el, number, picture, signed } from "./dom.js";
import { details, prose, state, whose, words } from "./state.js";
import { settled, trouble } from "./trouble.js";

const FIRST = 8; // rows of a group before "show all"
let asking = null;

export function start() {
  const dialog = $("explain");
  dialog.addEventListener("close", () => asking?.abort());
  // a click on the backdrop is a click on the dialog itself
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

export async function explain(item, pick) {
  const dialog = $("explain");
  asking?.abort();
  asking = new AbortController();
  $("explain-head").replaceChildren(picture(item, true), el("div", { class: "told" },
    el("h2", { id: "explain-title" }, `Why ${item.title}?`), el("p", { class: "details" }, details(item).join(" · ")),
    el("p", { class: "plot" }, prose(item))));
  $("explain-told").textContent = "Leaving one thing out at a time and scoring again …";
  $("explain-body").replaceChildren();
  if (!dialog.open) dialog.showModal();
  try {
    const found = await api("/v1/explain", { body: { item: item.item_id, ...whose(), ...pick }, signal: asking.signal });
    settled($("explain-trouble"));
    $("explain-told").textContent = found.reason;
    draw(found);
  } catch (error) {
    if (error.name !== "AbortError") $("explain-told").textContent = "";
    trouble($("explain-trouble"), error, () => dialog.open && explain(item, pick));
  }
}

function draw(found) {
  const w = words();
  const titles = { history: `${capital(w.items)} you ${w.verb}`, fields: "What is written about it", modalities: "Pictures, texts and behaviour" };
  const groups = Object.entries(titles).filter(([name]) => found.groups[name]?.length);
  $("explain-body").replaceChildren(
    el("dl", { class: "facts" },
      fact("Score", number(found.score), `mode ${found.mode}`),
      found.together !== null && found.together !== undefined
        && fact(`Your ${w.items} together`, signed(found.together), times(found, found.together))),
    ...groups.map(([name, title]) => group(found, title, found.groups[name], name === "history")),
    el("p", { class: "fine" }, `A bar says how much the score falls when that one thing is left out: “+” spoke for it, “−” against. `
      + `Unit: ${found.unit}. ${times(found, 1) && "“× 2” reads: twice as likely with it. "}Values do not add up to the score.`),
    found.notes?.length ? el("ul", { class: "fine" }, found.notes.map((note) => el("li", {}, note))) : "");
}

function fact(name, value, beside) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), beside && el("small", {}, ` ${beside}`)));
}

function group(found, title, parts, pictured) {
  const ends = [Math.min(0, ...parts.map((p) => p.value)), Math.max(0, ...parts.map((p) => p.value))];
  const span = ends[1] - ends[0] || 1;
  const rows = parts.map((part) => row(found, part, pictured, -ends[0] / span, Math.abs(part.value) / span));
  const list = el("ol", { class: pictured ? "bars pictured" : "bars" }, rows.slice(0, FIRST));
  const rest = rows.slice(FIRST);
  const all = rest.length > 0 && el("button", {
    type: "button", class: "plain", onclick: (event) => { list.append(...rest); event.currentTarget.remove(); },
  }, `Show all ${rows.length}`);
  return el("section", {}, el("h3", {}, title), list, all);
}

function row(found, part, pictured, zero, width) {
  const nothing = Math.abs(part.value) <= (found.rounding ?? 0);
  const side = nothing ? "none" : part.value > 0 ? "for" : "against";
  const bar = el("span", { class: "bar" });
  bar.style.width = `${100 * width}%`;
  bar.style.left = `${100 * (part.value < 0 ? zero - width : zero)}%`;
  const axis = el("span", { class: "axis" });
  axis.style.left = `${100 * zero}%`;
  const item = pictured && (state.history.find((i) => i.item_id === part.name) ?? { title: part.label });
  const said = nothing ? "≈ 0" : times(found, part.value) || `${Math.round(100 * part.share)} %`;
  return el("li", { class: side }, pictured && picture(item), el("span", { class: "label" }, capital(part.label)),
    el("span", { class: "value" }, el("b", {}, signed(part.value)), el("small", {}, said)),
    el("span", { class: "track", "aria-hidden": "true" }, axis, bar));
}

/** Natural logarithms read better as factors. */
function times(found, value) {
  if (!found.unit.startsWith("log-") || Math.abs(value) > 20) return "";
  const factor = Math.exp(value);
  return `× ${factor >= 100 ? Math.round(factor) : factor.toPrecision(2)}`;
}
