/* Requests to the service. Each function returns the response's JSON, or throws a `Failure`. */

/** A failed request: `title`, `message`, `status`, `trace` (for the operator), `wait` (seconds). */
export class Failure extends Error {
  constructor(title, message, { status = 0, trace = "", wait = 0 } = {}) {
    super(message);
    Object.assign(this, { title, status, trace, wait });
  }
}

const TITLES = {
  401: "This service needs an API key",
  403: "The request isn't allowed",
  413: "The request is too large",
  415: "The file isn't a supported picture",
  422: "The request is invalid",
  429: "The service is busy",
  503: "The critic isn't ready",
  504: "The critic took too long",
};

/** Why a result has no score, by its status. */
export const REASONS = {
  empty: "The critic's answer is empty.",
  no_answer: "The critic's answer has no score.",
  truncated: "The critic's answer was cut off before its score.",
  not_a_number: "The critic's answer isn't a number.",
  out_of_range: "The critic's answer isn't from 1 to 5.",
  ambiguous: "The critic's answer has several scores that don't agree.",
  bad_input: "The edit can't be read.",
  too_long: "The pictures and the instruction are too long for the critic.",
  unreachable: "The critic's engine couldn't be reached.",
  timed_out: "The critic took too long.",
  refused: "The critic's engine refused the request.",
  server_error: "The critic's engine failed.",
  garbled: "The reply of the critic's engine is invalid.",
};

/** Score an edit. `fields`: the files `source` and `edited`, and the text fields of POST /score. Returns a `Scored`. */
export async function score(fields, key, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  const result = await ask("/score", { method: "POST", body, signal }, key);
  const { status, score } = result ?? {};
  const whole = status === "ok" ? Number.isFinite(score) && score >= 1 && score <= 5 : status && score === null;
  if (!whole) throw new Failure("The service's reply is invalid", "It isn't a result, so there is no score.");
  return result;
}

/** Store a person's own score (`Rating`). */
export async function rate(rating, key) {
  return post("/feedback", rating, key);
}

/** The next pair to vote on (`NextPair`). */
export async function nextPair(rater, key) {
  return ask(`/v1/pairs/next?${new URLSearchParams({ rater })}`, {}, key);
}

/** Store a vote on a pair: "left", "right" or "tie". */
export async function vote(receipt, choice, key) {
  return post("/v1/pairs/vote", { receipt, choice }, key);
}

/** Edits to try: {id, instruction, source, edited}. */
export async function examples(key) {
  return ask("/examples", {}, key);
}

async function post(path, body, key) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) }, key);
}

async function ask(path, options, key) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (/[^\x20-\x7e]/.test(key)) {
    throw new Failure("The API key is invalid", "It has characters that no key has: copy it again.", { status: 401 });
  }
  let response, text;
  try {
    response = await fetch(path, { ...options, headers });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service can't be reached", "Check the network and whether the service is running, then try again.");
  }
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {} // not JSON, such as a proxy's error page
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
  return new Failure(title, wait ? `${message} Wait ${wait} s.` : message, { status, trace, wait });
}
