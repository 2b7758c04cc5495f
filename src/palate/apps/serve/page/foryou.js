// Recommendations: a grid of cards that follows the list, the filters and the choices above it.

import { api } from "./api.js";
import { card } from "./cards.js";
import { $, el, picture, say } from "./dom.js";
import { chosen, conditions, details, on, state, update, whose, words } from "./state.js";
import { add } from "./taste.js";
import { settled, trouble } from "./trouble.js";

const STEP = 12;
const MOST = 60;
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
  const nobody = !state.history.length && !state.user;
  $("starters").hidden = !nobody;
  $("answer").hidden = nobody;
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
  if (!$("grid").children.length) skeleton();
  show((await api("/v1/recommend", { body, signal })).items);
}

function show(items) {
  place(items);
  $("more").hidden = items.length < k || k >= MOST;
  $("nothing").hidden = items.length > 0;
  say(`${items.length} ${words().items} for you${items.length ? `, first ${items[0].title}` : ""}.`);
}

function skeleton() {
  const empty = () => el("li", { class: "card empty", "aria-hidden": "true" }, el("div", { class: "poster" }));
  $("grid").replaceChildren(...Array.from({ length: STEP }, empty));
}

/** Show the items; cards that stay keep their pictures and slide to their new places. */
function place(items) {
  const grid = $("grid");
  const before = new Map([...grid.children].map((node) => [node.dataset.id, node.getBoundingClientRect()]));
  const nodes = items.map((item) => card(item, {
    after: (_, __, keyboard) => { if (keyboard) refocus = item.rank - 1; },
  }));
  // a card that stays keeps its picture element, which is loaded already
  const pictures = new Map([...grid.querySelectorAll("li[data-id]")].map((n) => [n.dataset.id, n.querySelector(".poster")]));
  for (const node of nodes) if (pictures.has(node.dataset.id)) node.querySelector(".poster").replaceWith(pictures.get(node.dataset.id));
  const held = document.activeElement?.closest?.("#grid li")?.dataset.id;
  grid.replaceChildren(...nodes);
  if (refocus >= 0) nodes[Math.min(refocus, nodes.length - 1)]?.querySelector("button").focus();
  else if (held) nodes.find((n) => n.dataset.id === held)?.querySelector("button").focus({ preventScroll: true });
  refocus = -1;
  slide(nodes, before);
}

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
  const w = words();
  $("starters-title").textContent = `Which ${w.items} do you like?`;
  $("starters-hint").textContent = "Pick a few, or search for others. The list for you follows at once.";
  $("grid").replaceChildren();
  const { items } = await api("/v1/catalog?limit=18", { signal });
  $("starter-grid").replaceChildren(...items.map((item) => el("li", {}, el("button", {
    type: "button", class: "starter", "aria-label": `Add ${item.title}`, onclick: () => add(item),
  }, picture(item, true), el("b", {}, item.title), el("small", {}, details(item)[0])))));
}
