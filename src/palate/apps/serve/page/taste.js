// What a person's taste is made of: the list of what they chose, and what they said about items.

import { api } from "./api.js";
import { session, state, update, whose, without } from "./state.js";

/** Put an item at the new end of the list. A conversation that is going on hears of it, unless it would count as
 * something a known person did. */
export async function add(item) {
  const id = item.item_id;
  update({ history: [...without(state.history, id), item], disliked: without(state.disliked, id), edited: true });
  if (state.user) endSession();
  else if (session()) await tell({ item: id, kind: "interaction", session: session() }).catch(endSession);
}

export function remove(item) {
  update({ history: without(state.history, item.item_id), edited: true });
  endSession();
}

/** Move an item by so many places towards the new end (or the old one). */
export function move(item, by) {
  const list = [...state.history];
  const from = list.findIndex((i) => i.item_id === item.item_id);
  const to = Math.max(0, Math.min(list.length - 1, from + by));
  if (from < 0 || from === to) return;
  list.splice(to, 0, ...list.splice(from, 1));
  update({ history: list, edited: true });
  endSession();
}

/** Like, dislike or have seen an item: stored by the server where it knows who, and the next answer counts it. */
export async function give(item, kind) {
  const event = { item: item.item_id, kind };
  if (state.user) event.user = state.user;
  if (session()) event.session = session();
  if (event.user || event.session) await tell(event);
  const history = without(state.history, item.item_id);
  const disliked = without(state.disliked, item.item_id);
  if (kind === "dislike") update({ history, disliked: [...disliked, item] });
  else update({ history: [...history, { ...item, mark: kind }], disliked });
}

/** Take a dislike back. A known person's is with the server, where only a later word on the item undoes it. */
export function forgive(item) {
  update({ disliked: without(state.disliked, item.item_id) });
  endSession();
}

/** Take on a person the server knows. False where it does not. */
export async function openUser(id) {
  let found;
  try {
    found = await api(`/v1/users/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
  if (found.known === false) return false;
  update({ user: id, count: found.count ?? 0, edited: false, history: found.history, disliked: [] });
  endSession();
  return true;
}

export function clear() {
  update({ user: "", edited: false, history: [], disliked: [] });
  endSession();
}

/** The next message starts a conversation that knows the list as it is now; what was said stays on the page. */
export function endSession() {
  if (session()) update({ sessions: [...state.sessions, ""] });
}

/** The conversation's id; begins one where there is none. One with an edited list is nobody's in particular. */
export async function beginSession() {
  if (session()) return session();
  const { user, history } = whose();
  const body = { ...(history ? { history } : { user }), ...(state.model && { model: state.model }) };
  const made = await api("/v1/chat/sessions", { body });
  if (history && state.disliked.length) {
    await tell({ events: state.disliked.map((i) => ({ item: i.item_id, kind: "dislike", session: made.session })) });
  }
  update({ sessions: [...state.sessions.filter(Boolean), made.session] });
  return made.session;
}

const tell = (body) => api("/v1/events", { body });
