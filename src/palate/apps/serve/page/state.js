// What the page knows, in one place. Kept for this tab (sessionStorage), so a reload loses nothing.

const KEPT = ["user", "count", "edited", "history", "disliked", "filters", "model", "mode", "variety", "sessions", "draft", "compare"];
const NAME = "palate";

export const state = {
  about: {
    dataset: "", version: "", items: 0, users: 0, models: [], modes: [], default_mode: "", fields: {}, show: {},
    wording: { item: "item", items: "items", verb: "chose", person: "person" },
  },
  user: "", // an id the server knows, "" for a list of one's own
  count: 0, // items the server holds of `user`; the list has the latest
  edited: false, // the list is no longer just what the server holds of `user`
  history: [], // items, oldest first; `mark` is "like" or "seen" where they were said so
  disliked: [],
  filters: {}, // field -> {tags: [...]} or {min, max}
  model: "",
  mode: "",
  variety: 0,
  sessions: [], // ids of this tab's conversations, the last one is going on if it is not ""
  draft: "",
  compare: [null, null], // {model, mode} of the left and the right list
};

try {
  const kept = JSON.parse(sessionStorage.getItem(NAME) ?? "{}");
  for (const key of KEPT) if (key in kept) state[key] = kept[key];
} catch {
  sessionStorage.removeItem(NAME);
}

const listeners = [];

/** Call `react` whenever one of the keys changes. */
export function on(keys, react) {
  listeners.push([keys, react]);
}

export function update(patch) {
  Object.assign(state, patch);
  try {
    sessionStorage.setItem(NAME, JSON.stringify(Object.fromEntries(KEPT.map((k) => [k, state[k]]))));
  } catch {
    // a full or forbidden storage costs the reload, not the page
  }
  for (const [keys, react] of listeners) if (keys.some((k) => k in patch)) react();
}

export const words = () => state.about.wording;
export const session = () => state.sessions.at(-1) ?? "";
export const without = (items, id) => items.filter((i) => i.item_id !== id);

/** Whose taste it is, as requests say it: an untouched user by the id, else the list itself. */
export function whose() {
  const history = state.history.map((i) => i.item_id);
  if (!state.user) return { history };
  return state.edited ? { user: state.user, history } : { user: state.user };
}

/** Model and mode as requests say them: only what was chosen. */
export function chosen(pick = state) {
  return { ...(pick.model && { model: pick.model }), ...(pick.mode && { mode: pick.mode }) };
}

/** The filters as the server reads them; what was disliked is left out here too. */
export function conditions() {
  const out = {};
  for (const [field, want] of Object.entries(state.filters)) {
    if (want.tags?.length) out[field] = want.tags;
    const range = {};
    for (const end of ["min", "max"]) if (want[end] !== undefined) range[end] = want[end];
    if (Object.keys(range).length) out[field] = range;
  }
  if (state.disliked.length) out.item_id = { not: state.disliked.map((i) => i.item_id) };
  return Object.keys(out).length ? { filters: out } : {};
}

/** What the data set shows beside a title, such as year and genres; tags that share a cell are told apart. */
export function details(item) {
  const { show, fields } = state.about;
  const names = [...new Set([...(show?.history ?? []), ...(show?.candidate ?? [])])];
  return names.filter((name) => item.text?.[name]).map((name) => tagged(item.text[name], fields[name]));
}

/** The longest prose an item has, such as a plot. */
export function prose(item) {
  const texts = Object.entries(item.text ?? {}).filter(([name]) => !(name in state.about.fields)).map(([, text]) => text);
  return texts.reduce((a, b) => (b.length > a.length ? b : a), "");
}

function tagged(text, field) {
  if (field?.kind !== "tags") return text;
  const cell = ` ${text.replace(/[|;,]/g, " ")} `;
  const held = field.values.filter((tag) => cell.includes(` ${tag} `));
  return held.length > 1 ? held.join(", ") : text;
}
