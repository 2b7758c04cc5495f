// The list of what a person chose: a search box with suggestions, and the chosen items, oldest first.

import { api } from "./api.js";
import { $, capital, el, iconButton, picture, say } from "./dom.js";
import { details, on, state, words } from "./state.js";
import { add, clear, forgive, move, openUser, remove } from "./taste.js";
import { settled, trouble } from "./trouble.js";

let options = [];
let active = -1;
let searching = null;
let timer = 0;

export function start() {
  const box = $("search");
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(suggest, 120);
  });
  box.addEventListener("focus", suggest);
  box.addEventListener("keydown", keys);
  box.addEventListener("blur", close);
  $("user-form").addEventListener("submit", (event) => { event.preventDefault(); open(); });
  $("clear").addEventListener("click", () => { clear(); box.focus(); });
  on(["history", "disliked", "user", "about"], draw);
  draw();
}

// --- suggestions --------------------------------------------------------------------------------

async function suggest() {
  const box = $("search");
  const typed = box.value.trim();
  searching?.abort();
  if (!typed) return close();
  searching = new AbortController();
  try {
    const found = await api(`/v1/catalog?limit=8&q=${encodeURIComponent(typed)}`, { signal: searching.signal });
    settled($("search-trouble"));
    if (document.activeElement === box) show(found.items, typed);
  } catch (error) {
    if (error.name !== "AbortError") close();
    trouble($("search-trouble"), error, suggest);
  }
}

function show(items, typed) {
  options = items;
  const list = $("suggestions");
  list.replaceChildren(...items.map((item, n) => option(item, n)));
  if (!items.length) list.append(el("li", { class: "none", role: "option", "aria-disabled": "true" }, `No ${words().item} is called “${typed}”.`));
  list.hidden = false;
  $("search").setAttribute("aria-expanded", "true");
  activate(items.length ? 0 : -1);
  say(items.length ? `${items.length} suggestions` : `No ${words().item} found`);
}

function option(item, n) {
  const held = state.history.some((h) => h.item_id === item.item_id);
  return el("li", {
    id: `option-${n}`, role: "option", "aria-selected": "false",
    // a mouse press would blur the box and close the list before the click arrives
    onmousedown: (event) => event.preventDefault(),
    onclick: () => choose(item),
  }, picture(item, true), el("span", { class: "told" }, el("b", {}, item.title),
    el("small", {}, [details(item).join(" · "), held && "in your list"].filter(Boolean).join(" · "))));
}

function activate(n) {
  active = n;
  for (const [k, node] of [...$("suggestions").querySelectorAll("[role=option]")].entries()) {
    node.setAttribute("aria-selected", String(k === n));
    if (k === n) node.scrollIntoView({ block: "nearest" });
  }
  if (n >= 0) $("search").setAttribute("aria-activedescendant", `option-${n}`);
  else $("search").removeAttribute("aria-activedescendant");
}

function close() {
  options = [];
  active = -1;
  $("suggestions").hidden = true;
  $("search").setAttribute("aria-expanded", "false");
  $("search").removeAttribute("aria-activedescendant");
}

function choose(item) {
  $("search").value = "";
  close();
  add(item);
  say(`${item.title} added, ${state.history.length} in your list`);
}

function keys(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    if (options.length) activate((active + step + options.length) % options.length);
    else suggest();
  } else if (event.key === "Enter") {
    event.preventDefault();
    if (options[active]) choose(options[active]);
  } else if (event.key === "Escape" && !$("suggestions").hidden) {
    event.preventDefault();
    close();
  }
}

// --- a person the server knows ------------------------------------------------------------------

async function open() {
  const id = $("user").value.trim();
  if (!id) return;
  const place = $("search-trouble");
  try {
    const known = await openUser(id);
    settled(place);
    if (known) {
      $("user").value = "";
      say(`${capital(words().person)} ${id}, ${state.history.length} ${words().items}`);
    } else {
      place.replaceChildren(el("p", {}, el("strong", {}, `No ${words().person} is called “${id}”.`)));
      place.hidden = false;
    }
  } catch (error) {
    trouble(place, error, open);
  }
}

// --- the list -----------------------------------------------------------------------------------

function draw() {
  const w = words();
  const { user, history, disliked } = state;
  $("history-title").textContent = user ? `${capital(w.person)} ${user}` : `Your ${w.items}`;
  $("history-count").textContent = history.length ? String(history.length) : "";
  $("history-hint").textContent = history.length
    ? `${capital(w.verb)}, oldest first${user && state.count > history.length ? `; the latest of ${state.count}` : ""}.`
    : `Add ${w.items} you ${w.verb} and liked, in the order you did.`;
  $("clear").hidden = !history.length && !disliked.length && !user;
  $("clear").textContent = user ? "Close" : "Start over";
  $("user-form").hidden = Boolean(user || history.length);
  const list = $("history");
  list.replaceChildren(...history.map(row));
  list.hidden = !history.length;
  // the newest is what was just added
  list.scrollTo({ top: list.scrollHeight, left: list.scrollWidth });
  $("disliked-part").hidden = !disliked.length;
  $("disliked").replaceChildren(...disliked.map((item) => el("li", {}, el("span", {}, item.title),
    !user && iconButton("close", `Take back: ${item.title} is not for me`, () => forgive(item)))));
}

function row(item, n, list) {
  const steer = (by, name, at) => iconButton(by < 0 ? "earlier" : "later", `Move ${item.title} ${name}`, () => shift(item, by),
    { "data-by": by, disabled: n === at });
  const node = el("li", { draggable: "true", "data-id": item.item_id }, picture(item),
    el("span", { class: "told" }, el("b", {}, item.title), el("small", {}, mark(item) ?? details(item)[0])),
    el("span", { class: "moves" }, steer(-1, "earlier", 0), steer(1, "later", list.length - 1),
      iconButton("close", `Remove ${item.title}`, () => drop(item, n), { "data-by": 0 })));
  node.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData("text/plain", item.item_id);
    event.dataTransfer.effectAllowed = "move";
  });
  node.addEventListener("dragover", (event) => event.preventDefault());
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    const from = list.findIndex((i) => i.item_id === event.dataTransfer.getData("text/plain"));
    if (from >= 0) move(list[from], n - from);
  });
  return node;
}

function mark(item) {
  return { like: "liked", seen: words().verb }[item.mark];
}

function shift(item, by) {
  move(item, by);
  const at = state.history.findIndex((i) => i.item_id === item.item_id);
  focus($("history").children[at], by);
  say(`${item.title}: place ${at + 1} of ${state.history.length}`);
}

function drop(item, n) {
  remove(item);
  const next = $("history").children[Math.min(n, state.history.length - 1)];
  if (next) focus(next, 0);
  else $("search").focus();
  say(`${item.title} removed`);
}

function focus(row, by) {
  const wanted = row.querySelector(`[data-by="${by}"]`);
  (wanted.disabled ? row.querySelector(".moves :enabled") : wanted).focus();
}
