// What went wrong, told in place, with a way on.

import { el } from "./dom.js";

const waiting = new WeakMap(); // place -> the timer that tries again

export function calm(place) {
  clearInterval(waiting.get(place)?.timer);
  place.replaceChildren();
  place.hidden = true;
}

/** Show an error where it happened. `again`: what tries once more; where waiting may help it is tried without a click. */
export function trouble(place, error, again, { alone = true, note = "" } = {}) {
  if (error.name === "AbortError") return;
  const tries = (waiting.get(place)?.tries ?? 0) + 1;
  calm(place);
  const retry = () => {
    clearInterval(waiting.get(place)?.timer);
    again();
  };
  const count = el("span", { class: "count" });
  const button = again && el("button", { type: "button", class: "plain", onclick: retry }, "Try again");
  place.append(el("p", {}, el("strong", {}, headline(error)), " ", detail(error), note && ` ${note}`, " ", count), button);
  place.hidden = false;
  if (!again || !alone || !error.passing) return;
  let left = error.retryAfter || Math.min(30, 2 ** tries);
  const tick = () => {
    if (left <= 0 || !place.isConnected) return left <= 0 ? retry() : clearInterval(waiting.get(place).timer);
    count.textContent = `Trying again in ${left} s.`;
    left -= 1;
  };
  waiting.set(place, { tries, timer: setInterval(tick, 1000) });
  tick();
}

/** It worked: the next trouble starts counting anew. */
export function settled(place) {
  calm(place);
  waiting.delete(place);
}

function headline(error) {
  if (!(error.status >= 0)) return "Something went wrong on this page.";
  if (error.status === 0) return error.message;
  if (error.status === 401) return "The server wants a key.";
  if (error.status === 429) return "The server is busy right now.";
  if (error.status === 503) return "The server is starting or stopping.";
  if (error.status === 504) return "That took too long.";
  return error.status >= 500 ? "The server stumbled." : "That did not work.";
}

function detail(error) {
  if (error.status === 0) return "Nothing is lost.";
  if ([429, 503].includes(error.status)) return "";
  return error.message;
}
