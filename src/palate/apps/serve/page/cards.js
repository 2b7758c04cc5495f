// A recommended item as a card: picture, details, reason, and what one can say about it.

import { capital, el, iconButton, number, picture, say } from "./dom.js";
import { explain } from "./explain.js";
import { chosen, details, words } from "./state.js";
import { give } from "./taste.js";
import { settled, trouble } from "./trouble.js";

/** `after`: called when feedback was taken; `pick`: the model and mode that named the item. */
export function card(item, { after = () => {}, pick = chosen, small = false } = {}) {
  const place = el("div", { class: "notice", hidden: true });
  const buttons = el("div", { class: "says" });
  const button = (name, label, done) => iconButton(name, `${label}: ${item.title}`, async (event) => {
    const pressed = event.currentTarget;
    const keyboard = event.detail === 0;
    node.classList.add("busy");
    try {
      await give(item, name);
      settled(place);
      for (const other of buttons.children) other.removeAttribute("aria-pressed");
      pressed.setAttribute("aria-pressed", "true");
      node.dataset.said = name;
      say(`${done}: ${item.title}`);
      after(item, name, keyboard);
    } catch (error) {
      trouble(place, error, () => pressed.click(), { alone: false });
    } finally {
      node.classList.remove("busy");
    }
  });
  buttons.append(button("like", "I like it", "Liked"), button("dislike", "Not for me", "Not for you"),
    button("seen", `Already ${words().verb}`, capital(words().verb)),
    iconButton("why", `What mattered for ${item.title}`, () => explain(item, pick())));
  const node = el("li", { class: small ? "card small" : "card", "data-id": item.item_id },
    picture(item),
    el("div", { class: "told" }, el("h2", {}, el("span", { class: "rank" }, `${item.rank}. `), item.title), el("p", { class: "details" }, details(item).join(" · ")),
      el("p", { class: "reason" }, item.reason),
      item.score !== undefined && item.score !== null && el("p", { class: "score" }, `Score ${number(item.score)}`)),
    buttons, place);
  return node;
}
