// Recommendations: a grid of cards that follows the list, the filters and the choices above it.

import { api } from "./api.js";
import { card } from "./cards.js";
import { $, el, picture, say } from "./dom.js";
import { chosen, conditions, details, on, state, update, whose, words } from "./state.js";
import { add } from "./taste.js";
import { settled, trouble } from "./trouble.js";

const STEP = 12;
const MOST = 60;
const STARTERS = 18;
let k = STEP;
let asking = null;
let refocus = -1;
let stale = true;

export function start() {
  on(["history", "user", "disliked", "filters", "model", "mode", "variety"], refresh);
  on(["about"], () => { controls(); refresh(); });
  $("more").addEventListener("click", () => { k = Math.min(MOST, k + STEP); refresh(); });
  for (const name of ["model", "mode", "variety"]) {
    $(name).addEventListener("change", (event) => update({ [name]: name === "variety" ? Number(event.target.value) : event.target.value }));
  }
  controls();
  frame();
}

/** What stands before any answer: the right heading, and boxes where pictures will be. */
function frame() {
  const nobody = !state.history.length && !state.user;
  $("starters").hidden = !nobody;
  $("answer").hidden = nobody;
  const grid = $(nobody ? "starter-grid" : "grid");
  const box = () => el("li", { class: "card empty", "aria-hidden": "true" }, el("div", { class: "poster" }));
  if (!grid.children.length) grid.replaceChildren(...Array.from({ length: nobody ? STARTERS : STEP }, box));
  return nobody;
}

/** The choices above the grid; a choice of one is no choice. */
function controls() {
  const { about } = state;
  choices($("model"), about.models, state.model);
  choices($("mode"), about.modes, state.mode || about.default_mode);
  $("variety").value = String(state.variety);
}

export function choices(select, names, value) {
  select.replaceChildren(...names.map((n) => el("option", { value: n, selected: n === value }, n)));
  select.closest("label").hidden = names.length < 2;
}

/** Called when the view is opened: what changed meanwhile is asked now. */
export function open() {
  if (stale) refresh();
}

async function refresh() {
  stale = true;
  if (!state.about.dataset || document.body.dataset.view !== "foryou") return;
  stale = false;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const nobody = frame();
  const place = $("foryou-trouble");
  $("grid").setAttribute("aria-busy", "true");
  try {
    if (nobody) await starters(signal);
    else await recommend(signal);
    settled(place);
  } catch (error) {
    if (error.code === "nothing_fits") show([]);
    else trouble(place, error, refresh);
  }
  if (!signal.aborted) $("grid").setAttribute("aria-busy", "false");
}

async function recommend(signal) {
  const body = { ...whose(), k, ...chosen(), ...conditions() };
  if (state.variety) body.diversity = state.variety;
  show((await api("/v1/recommend", { body, signal })).items);
}

function show(items) {
  place(items);
  $("more").hidden = items.length < k || k >= MOST;
  $("nothing").hidden = items.length > 0;
  say(`${items.length} ${words().items} for you${items.length ? `, first ${items[0].title}` : ""}.`);
}

/** Show the items. A card that stays is the same element, with its picture and the focus, and slides to its new place. */
function place(items) {
  const grid = $("grid");
  const old = new Map([...grid.children].map((node) => [node.dataset.id, node]));
  const before = new Map([...old].map(([id, node]) => [id, node.getBoundingClientRect()]));
  const nodes = items.map((item) => {
    const node = card(item, { after: (_, __, keyboard) => { if (keyboard) refocus = at(item); } });
    const same = old.get(item.item_id);
    same?.querySelector(".told").replaceWith(node.querySelector(".told"));
    return same ?? node;
  });
  const active = document.activeElement;
  grid.replaceChildren(...nodes);
  if (refocus >= 0) nodes[Math.min(refocus, nodes.length - 1)]?.querySelector("button").focus();
  else if (grid.contains(active)) active.focus({ preventScroll: true });
  refocus = -1;
  slide(nodes, before);
}

const at = (item) => [...$("grid").children].findIndex((node) => node.dataset.id === item.item_id);

function slide(nodes, before) {
  if (!before.size || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const node of nodes) {
    const [old, now] = [before.get(node.dataset.id), node.getBoundingClientRect()];
    const from = old ? { transform: `translate(${old.left - now.left}px, ${old.top - now.top}px)` } : { opacity: 0, transform: "scale(.96)" };
    node.animate([from, { opacity: 1, transform: "none" }], { duration: 280, easing: "cubic-bezier(.2, .7, .2, 1)" });
  }
}

/** For a person without a list: popular items to begin with. */
async function starters(signal) {
  $("grid").replaceChildren();
  const { items } = await api(`/v1/catalog?limit=${STARTERS}`, { signal });
  $("starter-grid").replaceChildren(...items.map((item) => el("li", {}, el("button", {
    type: "button", class: "starter", "aria-label": `Add ${item.title}`, onclick: () => add(item),
  }, picture(item, true), el("b", {}, item.title), el("small", {}, details(item)[0])))));
}
