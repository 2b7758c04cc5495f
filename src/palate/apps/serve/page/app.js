// The page begins here: views, the key dialog, and what the server says about itself.

import { api, onKeyWanted } from "./api.js";
import * as chat from "./chat.js";
import * as compare from "./compare.js";
import { $, capital, say } from "./dom.js";
import * as explain from "./explain.js";
import * as filters from "./filters.js";
import * as foryou from "./foryou.js";
import * as history from "./history.js";
import { on, state, update, words } from "./state.js";
import { settled, trouble } from "./trouble.js";

const VIEWS = ["foryou", "chat", "compare"];

function view() {
  const wanted = location.hash.slice(2);
  // "#main" of the skip link is no view
  const name = VIEWS.includes(wanted) ? wanted : document.body.dataset.view;
  document.body.dataset.view = name;
  for (const one of VIEWS) {
    $(one).hidden = one !== name;
    const link = document.querySelector(`nav a[href="#/${one}"]`);
    if (one === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name === "compare") compare.open();
  if (name === "foryou") foryou.open();
}

function askKey(refused) {
  const dialog = $("key");
  $("key-told").textContent = refused ? "The server did not take that key." : "This server answers to people with a key.";
  $("key-value").value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? $("key-value").value.trim() : null), { once: true });
  });
}

/** The words of this catalogue, wherever the page speaks of its items. */
function speak() {
  const w = words();
  const { about } = state;
  for (const node of document.querySelectorAll("[data-words]")) {
    node.textContent = node.dataset.words.replace(/\{(Item|Items|item|items|verb|person)\}/g, (_, name) =>
      name === name.toLowerCase() ? w[name] : capital(w[name.toLowerCase()]));
  }
  $("search").placeholder = `Search ${w.items}`;
  $("user").placeholder = `${capital(w.person)} id`;
  if (!about.dataset) return;
  const count = (n) => Number(n).toLocaleString("en");
  $("about").textContent = [`Data: ${about.dataset}, ${count(about.items)} ${w.items}, ${count(about.users)} people`,
    `${about.models.length > 1 ? "Models" : "Model"}: ${about.models.join(", ")}`, `Palate ${about.version}`].join(" · ");
}

async function learn() {
  try {
    const about = await api("/v1/about");
    const patch = { about };
    // what was chosen among another server's models and modes is no choice here
    for (const what of ["model", "mode"]) if (state[what] && !about[`${what}s`].includes(state[what])) patch[what] = "";
    update(patch);
    settled($("page-trouble"));
  } catch (error) {
    trouble($("page-trouble"), error, learn);
  }
}

onKeyWanted(askKey);
on(["about"], speak);
speak();
for (const part of [history, filters, foryou, chat, compare, explain]) part.start();
addEventListener("hashchange", () => {
  view();
  $("main").focus({ preventScroll: true });
  say(document.querySelector("nav a[aria-current]").textContent);
});
view();
learn();
