// Requests to the server that served this page, and the one stream that says what has changed.

const base = document.baseURI;
const cache = new Map();

/** An error of the server, or of the way to it (status 0). */
export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const url = (path) => new URL(path, base).href;

/** An adapter's name or a version's as one part of a path. */
export const part = (name) => encodeURIComponent(name);

async function send(method, path, { body, form, headers = {}, signal } = {}) {
  const init = { method, headers: { ...headers }, signal, credentials: "same-origin" };
  if (form) init.body = form;
  else if (body !== undefined) {
    init.headers["content-type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  try {
    return await fetch(url(path), init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.", "unreachable");
  }
}

async function readError(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* a proxy's error has no JSON */ }
  if (response.status === 401) window.dispatchEvent(new Event("signin"));
  return new ApiError(response.status, error.message ?? `The server answered with status ${response.status}.`, error.code);
}

/** Read JSON. What is unchanged since the last time is not sent again. */
export async function get(path, signal) {
  const known = cache.get(path);
  const response = await send("GET", path, { headers: known ? { "if-none-match": known.etag } : {}, signal });
  if (response.status === 304 && known) return known.body;
  if (!response.ok) throw await readError(response);
  const body = await response.json();
  const etag = response.headers.get("etag");
  if (etag) {
    if (cache.size > 200) cache.clear();
    cache.set(path, { etag, body });
  }
  return body;
}

export async function call(method, path, body, options = {}) {
  const response = await send(method, path, { body, ...options });
  if (!response.ok) throw await readError(response);
  return response.json();
}

export const post = (path, body, options) => call("POST", path, body ?? {}, options);
export const remove = (path) => call("DELETE", path);
export const upload = (path, form) => call("POST", path, undefined, { form });

/** Ask for an answer, piece by piece. Returns its id, the whole text and the version that gave it. */
export async function chat(body, onText, signal) {
  const response = await send("POST", "v1/chat/completions", { body: { ...body, stream: true }, signal });
  if (!response.ok) throw await readError(response);
  const version = response.headers.get("x-ouroboros-version");
  const answer = { id: null, text: "", version: version === "base" ? null : version, finish: null };
  for await (const data of readLines(response.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(500, chunk.error.message, chunk.error.code);
    answer.id = chunk.id;
    const choice = chunk.choices[0];
    if (choice?.delta?.content) {
      answer.text += choice.delta.content;
      onText(answer.text);
    }
    answer.finish = choice?.finish_reason ?? answer.finish;
  }
  if (answer.finish === null) throw new ApiError(0, "The connection was lost before the answer was complete.", "unreachable");
  return answer;
}

async function* readLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The connection was lost before the answer was complete.", "unreachable");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The ticket of a judgement, once it is learned or is not going to be. */
export function awaitTicket(id) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(url(`v1/feedback/${part(id)}/events`));
    source.onmessage = (message) => {
      const ticket = JSON.parse(message.data);
      if (ticket.error) {
        source.close();
        reject(new ApiError(500, ticket.error.message, ticket.error.code));
      } else if (ticket.status !== "pending") {
        source.close();
        resolve(ticket);
      }
    };
    source.onerror = () => {
      // The browser connects again by itself, and the ticket is durable; a final refusal is not repeated.
      if (source.readyState === EventSource.CLOSED) reject(new ApiError(0, "The judgement is stored. Its outcome will be shown under Feedback.", "unreachable"));
    };
  });
}

/** The stream of changes. `onChange` gets names such as "adapter:tickets", or "*"; `onState` true or false. */
export function follow(onChange, onState) {
  let source = null;
  let timer = null;
  const connect = () => {
    source = new EventSource(url("v1/events"));
    source.onmessage = (message) => {
      onState(true);
      const { changed } = JSON.parse(message.data);
      if (changed.length) onChange(new Set(changed));
    };
    source.addEventListener("leaving", () => onState(false));
    source.onerror = () => {
      onState(false);
      if (source.readyState !== EventSource.CLOSED) return;
      // The browser gave up (the server answered with an error): look again, and read everything anew.
      timer = setTimeout(() => { connect(); onChange(new Set(["*"])); }, 2000);
    };
  };
  connect();
  return () => { clearTimeout(timer); source.close(); };
}
