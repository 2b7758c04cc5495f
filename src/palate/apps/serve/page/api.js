// Requests to the server that sent this page, and to no other.

const KEY = "palate-key";
const STATUS = { overloaded: 429, closing: 503, timeout: 504 }; // of errors in mid stream, where HTTP has none
let askKey = async () => null;
let asking = null;

/** `ask(refused)` gives the key a person typed, or null. */
export function onKeyWanted(ask) {
  askKey = ask;
}

/** Anything but an answer. status 0: the server could not be reached, or went away in mid answer. */
export class ApiError extends Error {
  constructor(message, status = 0, code = "", retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }

  /** Whether the same request may well be answered later. */
  get passing() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

async function send(path, { method, body, signal } = {}) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body ? "POST" : "GET"), headers, signal, cache: "no-cache",
      body: body && JSON.stringify(body), credentials: "omit", referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    // one dialog, however many requests were refused
    asking ??= askKey(Boolean(key)).finally(() => { asking = null; });
    const typed = await asking;
    if (typed) {
      keep(typed);
      return send(path, { method, body, signal });
    }
  }
  throw await refusal(response);
}

function keep(key) {
  sessionStorage.setItem(KEY, key);
  // a browser sends no header with a picture; the server takes the cookie for pictures alone
  document.cookie = `palate_key=${key}; path=/v1/items; SameSite=Strict`;
}

async function refusal(response) {
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // not ours: a proxy's page, or nothing
  }
  const wait = Number(response.headers.get("Retry-After")) || 0;
  return new ApiError(told.message || `The server answered ${response.status}.`, response.status, told.code, wait);
}

/** The JSON a path answers with; with a body it is posted. Raises ApiError, or AbortError. */
export async function api(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The answer broke off.");
  }
}

/** The chunks of a server-sent stream in OpenAI's form, until its [DONE]. */
export async function* stream(path, body, signal) {
  const response = await send(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      part = { done: true };
    }
    if (part.done) throw new ApiError("The answer broke off.");
    const events = (rest + part.value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, STATUS[chunk.error.code] ?? 500, chunk.error.code);
      yield chunk;
    }
  }
}
