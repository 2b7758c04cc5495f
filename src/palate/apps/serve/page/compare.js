// Two lists for the same taste side by side: models or modes, what they share and where it moved.

import { api } from "./api.js";
import { $, el, number, picture, say, svg } from "./dom.js";
import { explain } from "./explain.js";
import { choices } from "./foryou.js";
import { chosen, conditions, details, on, state, update, whose, words } from "./state.js";
import { settled, trouble } from "./trouble.js";

const K = 10;
const SIDES = ["left", "right"];
const lists = [[], []];
const asking = [null, null];

export function start() {
  SIDES.forEach((side, n) => {
    for (const what of ["model", "mode"]) $(`${side}-${what}`).addEventListener("change", (event) => pickOne(n, what, event.target.value));
  });
  on(["about"], controls);
  on(["history", "user", "disliked", "filters", "about"], () => SIDES.forEach((_, n) => ask(n)));
  controls();
}

/** Called when the view is opened: what changed meanwhile is asked now. */
export function open() {
  SIDES.forEach((_, n) => ask(n));
}

/** By default the chosen way on the left, and on the right the next model, or the next mode. */
function pick(n) {
  const { about } = state;
  if (state.compare[n]) return state.compare[n];
  const [model, mode] = [state.model || about.models[0], state.mode || about.default_mode];
  if (n === 0) return { model, mode };
  if (about.models.length > 1) return { model: about.models.find((m) => m !== model), mode };
  const others = about.modes.filter((m) => m !== mode);
  return { model, mode: others.find((m) => m === "letters") ?? others[0] ?? mode };
}

function pickOne(n, what, value) {
  const compare = SIDES.map((_, k) => pick(k));
  compare[n] = { ...compare[n], [what]: value };
  update({ compare });
  ask(n);
}

function controls() {
  SIDES.forEach((side, n) => {
    choices($(`${side}-model`), state.about.models, pick(n).model);
    choices($(`${side}-mode`), state.about.modes, pick(n).mode);
  });
}

async function ask(n) {
  if (document.body.dataset.view !== "compare" || !state.about.dataset) return;
  const nobody = !state.history.length && !state.user;
  $("compare-empty").hidden = !nobody;
  $("compare-lists").hidden = nobody;
  if (nobody) return;
  asking[n]?.abort();
  asking[n] = new AbortController();
  const { signal } = asking[n];
  const place = $(`${SIDES[n]}-trouble`);
  const list = $(`${SIDES[n]}-list`);
  list.setAttribute("aria-busy", "true");
  try {
    const body = { ...whose(), k: K, ...chosen(pick(n)), ...conditions() };
    lists[n] = (await api("/v1/recommend", { body, signal })).items;
    settled(place);
  } catch (error) {
    if (error.name === "AbortError") return;
    lists[n] = [];
    trouble(place, error, () => ask(n));
  }
  list.removeAttribute("aria-busy");
  draw();
}

function draw() {
  SIDES.forEach((side, n) => $(`${side}-list`).replaceChildren(...lists[n].map((item) => row(item, n))));
  const both = lists[0].filter((a) => lists[1].some((b) => b.item_id === a.item_id)).length;
  const whole = lists.every((l) => l.length);
  $("shared").textContent = whole ? `${both} of ${lists[0].length} ${words().items} are on both lists.` : "";
  links();
  if (whole) say($("shared").textContent);
}

function row(item, n) {
  const other = lists[1 - n].findIndex((i) => i.item_id === item.item_id);
  const id = item.item_id;
  const light = (on) => () => document.querySelectorAll("#compare [data-id]").forEach((node) =>
    node.classList.toggle("lit", on && node.dataset.id === id));
  return el("li", { "data-id": id, class: other < 0 ? "alone" : "" }, el("button", {
    type: "button", title: `${item.title}: what mattered`, onclick: () => explain(item, pick(n)),
    onmouseenter: light(true), onmouseleave: light(false), onfocus: light(true), onblur: light(false),
  }, el("span", { class: "rank" }, String(item.rank)), picture(item), el("span", { class: "told" }, el("b", {}, item.title),
    el("small", { class: "when" }, details(item)[0] ?? ""), beside(n, item.rank, other + 1)),
  el("span", { class: "score" }, number(item.score))));
}

/** Where the other list has it: in words and with an arrow, so that no colour is needed. */
function beside(n, rank, there) {
  if (!lists[1 - n].length) return "";
  if (!there) return el("small", { class: "only" }, "only here");
  const moved = there - rank;
  const arrow = moved === 0 ? "=" : moved > 0 ? "▲" : "▼";
  const told = moved === 0 ? "same place" : `${Math.abs(moved)} ${moved > 0 ? "higher" : "lower"} here`;
  return el("small", { class: moved === 0 ? "same" : moved > 0 ? "up" : "down" }, `also #${there} `,
    el("span", { "aria-hidden": "true" }, moved === 0 ? "=" : `${arrow}${Math.abs(moved)}`), el("span", { class: "unseen" }, `, ${told}`));
}

/** Lines between the two places of an item; rows are of one height, so places are enough. */
function links() {
  const height = Math.max(lists[0].length, lists[1].length, 1);
  const lines = lists[0].flatMap((item, a) => {
    const b = lists[1].findIndex((i) => i.item_id === item.item_id);
    if (b < 0) return [];
    const [y, z] = [10 * a + 5, 10 * b + 5];
    return [svg("path", { d: `M0 ${y}C50 ${y} 50 ${z} 100 ${z}`, "data-id": item.item_id, "vector-effect": "non-scaling-stroke" })];
  });
  const drawing = $("links");
  drawing.setAttribute("viewBox", `0 0 100 ${10 * height}`);
  drawing.style.setProperty("--rows", height);
  drawing.replaceChildren(...lines);
}
