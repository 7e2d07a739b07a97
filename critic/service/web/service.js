/* What the service is asked. Each function returns what it answered, or throws a `Failure`. */

/** Why there is no answer, for people: `title`, `message`, `trace` (for the operator), `wait` (seconds). */
export class Failure extends Error {
  constructor(title, message, { status = 0, trace = "", wait = 0 } = {}) {
    super(message);
    Object.assign(this, { title, status, trace, wait });
  }
}

const TITLES = {
  401: "This service wants an API key",
  403: "That isn't allowed here",
  413: "That is too big",
  415: "That is no picture that the critic reads",
  422: "The service can't take this request",
  429: "The service is busy",
  503: "The critic isn't ready",
  504: "The critic took too long",
};

/** Why a verdict has no score, by its status. */
export const REASONS = {
  empty: "The critic wrote nothing.",
  no_answer: "The critic wrote, but gave no score.",
  truncated: "The critic's answer was cut off before its score.",
  not_a_number: "The critic's answer is no number.",
  out_of_range: "The critic's answer is no score from 1 to 5.",
  ambiguous: "The critic gave several scores that don't agree.",
  bad_input: "The critic can't read this edit.",
  too_long: "The pictures and the instruction are more than the critic can take in.",
  unreachable: "The critic's engine couldn't be reached.",
  timed_out: "The critic took too long.",
  refused: "The critic's engine refused the request.",
  server_error: "The critic's engine failed.",
  garbled: "The critic's engine answered something that can't be read.",
};

/** The verdict (`Scored`) of an edit: files `source` and `edited`, and the text fields of POST /score. */
export async function score(fields, key, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  const verdict = await ask("/score", { method: "POST", body, signal }, key);
  const { status, score } = verdict ?? {};
  const whole = status === "ok" ? Number.isFinite(score) && score >= 1 && score <= 5 : status && score === null;
  if (!whole) throw new Failure("The service's answer can't be read", "It is no verdict, so there is no score.");
  return verdict;
}

/** Have a person's own score (`Rating`) kept. */
export async function rate(rating, key) {
  const headers = { "Content-Type": "application/json" };
  return ask("/feedback", { method: "POST", headers, body: JSON.stringify(rating) }, key);
}

/** Edits to try: {id, instruction, source, edited}. */
export async function examples(key) {
  return ask("/examples", {}, key);
}

async function ask(path, options, key) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (/[^\x20-\x7e]/.test(key)) {
    throw new Failure("That is no API key", "It has characters that no key has: copy it anew.", { status: 401 });
  }
  let response, text;
  try {
    response = await fetch(path, { ...options, headers });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service can't be reached", "Is the network there, and the service running? Try it again.");
  }
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {} // not JSON: a proxy's page, say; what that comes to is said below
  if (!response.ok) throw refusal(response, body?.error);
  return body;
}

function refusal(response, error) {
  const { status, headers } = response;
  const after = headers.get("Retry-After");
  const wait = Math.ceil(Math.max(0, Number(after) || (Date.parse(after) - Date.now()) / 1000 || 0));
  const request = error?.request_id ?? headers.get("X-Request-ID");
  const trace = [`HTTP ${status}`, error?.code, request && `request ${request}`].filter(Boolean).join(", ");
  const title = TITLES[status] ?? (status < 500 ? "The service refused the request" : "The service failed");
  const message = error?.message ?? "It gave no reason.";
  return new Failure(title, wait ? `${message} It asks to wait ${wait} s.` : message, { status, trace, wait });
}
