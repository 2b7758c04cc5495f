// A conversation: what is typed goes to the server, the answer streams in, cards appear as its items come.

import { api, stream } from "./api.js";
import { card } from "./cards.js";
import { $, el, say } from "./dom.js";
import { chosen, on, session, state, update, words } from "./state.js";
import { beginSession, endSession } from "./taste.js";
import { calm, settled, trouble } from "./trouble.js";

const K = 5;
let answering = null;

export function start() {
  const box = $("message");
  box.value = state.draft;
  box.addEventListener("input", () => update({ draft: box.value }));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("stop").addEventListener("click", () => answering?.abort());
  $("chat-new").addEventListener("click", () => {
    answering?.abort();
    update({ sessions: [] });
    $("turns").replaceChildren();
    calm($("chat-trouble"));
    ideas();
    box.focus();
  });
  on(["about", "history", "sessions"], ideas);
  on(["model"], endSession);
  restore();
}

// --- what was said before -----------------------------------------------------------------------

async function restore() {
  const place = $("chat-trouble");
  const held = state.sessions.filter(Boolean);
  if (!held.length) return ideas();
  try {
    const past = await Promise.all(held.map((id) => api(`/v1/chat/sessions/${encodeURIComponent(id)}`).catch(gone)));
    settled(place);
    $("turns").replaceChildren();
    for (const one of past) if (one) before(one);
    const lost = held.filter((_, n) => !past[n]);
    if (lost.length) update({ sessions: state.sessions.filter((id) => !lost.includes(id)) });
    latest();
  } catch (error) {
    trouble(place, error, restore);
  }
  ideas();
}

/** A conversation the server no longer holds is no reason to stop. */
function gone(error) {
  if (error.status === 404) return null;
  throw error;
}

function before(one) {
  if ($("turns").children.length) $("turns").append(el("li", { class: "divider" }, "from here with your changed list"));
  const said = { ...mark(one.seen, "seen"), ...mark(one.disliked, "dislike"), ...mark(one.liked, "like") };
  one.turns.forEach((turn, n) => {
    const next = one.turns[n + 1];
    if (turn.role !== "user") answer().show(turn.text, turn.items ?? [], said);
    // a message that got no answer was sent again, or goes back into the box
    else if (next?.role === "assistant") asked(turn.text);
    else if (!next && !$("message").value) typed(turn.text);
  });
}

const mark = (ids, kind) => Object.fromEntries((ids ?? []).map((id) => [id, kind]));

// --- saying something ---------------------------------------------------------------------------

async function send(text = $("message").value.trim()) {
  if (!text || answering) return;
  const place = $("chat-trouble");
  calm(place);
  const mine = asked(text);
  const reply = answer();
  begin();
  ideas();
  latest();
  let [started, again] = [false, false];
  try {
    const body = { messages: [{ role: "user", content: text }], stream: true, session: await beginSession(), k: K };
    if (state.model) body.model = state.model;
    for await (const chunk of stream("/v1/chat/completions", body, answering.signal)) {
      // from here on the server has the message
      if (!started) typed("");
      started = true;
      reply.take(chunk.choices?.[0]?.delta ?? {});
    }
    settled(place);
    reply.done();
  } catch (error) {
    if (error.name === "AbortError") reply.done("Stopped.");
    else again = failed(error, text, started, mine, reply);
  } finally {
    end();
  }
  if (again) send(text);
}

/** Tell it; true where the message is worth sending again at once. */
function failed(error, text, started, mine, reply) {
  const place = $("chat-trouble");
  if (started) {
    reply.done("The answer broke off here.");
    trouble(place, error, () => send(text), { alone: false });
    return false;
  }
  // nothing arrived: the words go back into the box
  mine.remove();
  reply.node.remove();
  typed(text);
  ideas();
  if (error.status === 404 && session()) {
    // the server no longer holds this conversation
    endSession();
    return true;
  }
  trouble(place, error, () => send(), { alone: false, note: "Your message is still in the box." });
  return false;
}

function typed(text) {
  $("message").value = text;
  update({ draft: text });
}

function begin() {
  answering = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
}

function end() {
  answering = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  if (document.activeElement === document.body) $("message").focus();
}

/** The newest question stands at the top, its answer below it. */
export function latest() {
  [...$("turns").querySelectorAll(".mine")].at(-1)?.scrollIntoView({ block: "start" });
}

// --- turns --------------------------------------------------------------------------------------

function asked(text) {
  const node = el("li", { class: "mine" }, el("span", { class: "unseen" }, "You: "), el("p", {}, text));
  $("turns").append(node);
  return node;
}

/** An answer that grows: `take` a delta, or `show` it whole. */
function answer() {
  const [told, cards] = [el("p", { class: "dots" }), el("ol", { class: "cards" })];
  const node = el("li", { class: "theirs", "aria-busy": "true" }, el("span", { class: "unseen" }, "Palate: "), told, cards);
  $("turns").append(node);
  const items = [];
  let text = "";
  const add = (item, said) => {
    items.push(item);
    const one = card(item, { small: true, after: (_, kind) => noted(one, kind), pick: () => chosen() });
    cards.append(one);
    if (said) noted(one, said);
  };
  const prose = (growing) => {
    told.textContent = withoutList(text, items, growing);
    told.classList.toggle("dots", growing && !told.textContent);
  };
  const done = (note) => {
    prose(false);
    node.removeAttribute("aria-busy");
    if (note) node.append(el("p", { class: "fine" }, note));
    say([told.textContent, ...items.map((i) => `${i.rank}. ${i.title}`), note].filter(Boolean).join(" "));
  };
  return {
    node,
    done,
    take(delta) {
      text += delta.content ?? "";
      if (delta.palate?.item) add(delta.palate.item);
      prose(true);
    },
    show(whole, all, said) {
      text = whole;
      for (const item of all) add(item, said[item.item_id]);
      prose(false);
      node.removeAttribute("aria-busy");
    },
  };
}

/** The text without its numbered list: the cards show that better. While it grows, a line that may become part of the
 * list is held back. */
function withoutList(text, items, growing) {
  const lines = text.split("\n");
  const listed = (line) => items.some((i) => line.startsWith(`${i.rank}. ${i.title}`));
  const maybe = (line, n) => growing && n === lines.length - 1 && /^\d+(\.|$)/.test(line);
  return lines.filter((line, n) => !listed(line) && !maybe(line, n)).join("\n").trim();
}

function noted(node, kind) {
  const text = { like: "Liked", dislike: "Not for you", seen: `Already ${words().verb}` }[kind];
  node.querySelector(".noted")?.remove();
  node.dataset.said = kind;
  node.querySelector(".told").append(el("p", { class: "noted" }, `${text}. The next answer counts it.`));
}

// --- something to begin with --------------------------------------------------------------------

function ideas() {
  const empty = !$("turns").children.length;
  $("chat-empty").hidden = !empty;
  $("chat-new").hidden = empty;
  if (!empty) return;
  $("ideas").replaceChildren(...examples().map((text) => el("li", {}, el("button", {
    type: "button", class: "idea", onclick: () => send(text),
  }, text))));
}

/** Wishes this catalogue can meet, from its own fields. */
function examples() {
  const w = words();
  const fields = Object.entries(state.about.fields);
  const shown = state.about.show?.candidate ?? [];
  const tags = fields.find(([name, f]) => f.kind === "tags" && shown.includes(name))?.[1].values ?? [];
  const year = fields.find(([, f]) => f.kind === "number" && f.low >= 1000 && f.high <= 2200)?.[1];
  const out = [`Surprise me with ${w.items} I would enjoy`];
  if (tags.length > 5) out.push(`${tags[1]}, but not ${tags[4]}`, `${tags[5]} or ${tags[3]}`);
  if (year) out.push(`Something from before ${Math.round((year.low + 2 * year.high) / 30) * 10}`);
  const newest = state.history.at(-1);
  if (newest) out.push(`Something like ${newest.title}`);
  return out;
}
