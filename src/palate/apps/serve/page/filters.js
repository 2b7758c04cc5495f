// Filters from what the catalogue's fields hold: tags to pick, numbers between two ends.

import { $, capital, el } from "./dom.js";
import { on, state, update } from "./state.js";

const MOST = 40; // tags a field may have to be shown as chips

export function start() {
  on(["about"], draw);
  on(["filters"], count);
  $("filters-clear").addEventListener("click", () => {
    update({ filters: {} });
    draw();
  });
  draw();
}

function draw() {
  const fields = Object.entries(state.about.fields).filter(([, f]) => f.kind !== "tags" || f.values.length <= MOST);
  // what stands beside the titles is what most people reach for
  const shown = ([name]) => (state.about.show?.candidate ?? []).includes(name);
  const drawn = (list) => list.map(([name, f]) => (f.kind === "tags" ? chips(name, f) : range(name, f)));
  const rest = drawn(fields.filter((f) => !shown(f)));
  $("filter-fields").replaceChildren(...drawn(fields.filter(shown)),
    ...(rest.length ? [el("details", { class: "more" }, el("summary", {}, "More"), rest)] : []));
  $("filters-part").hidden = !fields.length;
  count();
}

function count() {
  const on = Object.values(state.filters).reduce((n, f) => n + (f.tags?.length ?? 0) + (f.min !== undefined || f.max !== undefined ? 1 : 0), 0);
  $("filters-count").textContent = on ? `${on} on` : "";
  $("filters-clear").hidden = !on;
}

function set(name, patch) {
  update({ filters: { ...state.filters, [name]: { ...state.filters[name], ...patch } } });
}

function chips(name, field) {
  const held = () => state.filters[name]?.tags ?? [];
  return el("fieldset", {}, el("legend", {}, capital(name)), el("div", { class: "chips" }, spelledOnce(field.values).map((tag) => {
    const box = el("input", { type: "checkbox", value: tag, checked: held().includes(tag) });
    box.addEventListener("change", () => set(name, { tags: box.checked ? [...held(), tag] : held().filter((t) => t !== tag) }));
    return el("label", { class: "chip" }, box, el("span", {}, tag));
  })));
}

/** Filters do not tell "Unrated" from "UNRATED": one chip for both. */
function spelledOnce(tags) {
  const seen = new Map();
  for (const tag of tags) if (!seen.has(tag.toLowerCase())) seen.set(tag.toLowerCase(), tag);
  return [...seen.values()];
}

function range(name, field) {
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const inputs = {};
  const changed = () => {
    const value = (end) => (inputs[end].value.trim() === "" ? undefined : Number(inputs[end].value));
    const [min, max] = [value("min"), value("max")];
    wrong.hidden = !(min > max);
    wrong.textContent = wrong.hidden ? "" : `From ${min} to ${max} is empty: swap them?`;
    if (wrong.hidden) set(name, { min, max });
  };
  const end = (which, label, limit) => {
    inputs[which] = el("input", {
      type: "number", inputmode: "numeric", placeholder: limit, min: field.low, max: field.high, step: "any",
      value: state.filters[name]?.[which], "aria-label": `${capital(name)} ${label}`, onchange: changed,
    });
    return inputs[which];
  };
  return el("fieldset", {}, el("legend", {}, capital(name) + (field.unit ? `, ${field.unit}` : "")),
    el("div", { class: "range" }, end("min", "from", Math.floor(field.low)), el("span", {}, "to"), end("max", "to", Math.ceil(field.high))), wrong);
}
