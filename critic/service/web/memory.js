/* What this browser remembers. A browser may forbid it, or have no room. */

const RECENT = "critic.recent";
const MOST = 12;

/** The text kept under a name in `localStorage` or `sessionStorage`, or "". */
export function recall(storage, name) {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Keep a text; whether that was possible. */
export function keep(storage, name, text) {
  try {
    window[storage].setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

/** The recent requests, the newest first. */
export function loadRecent() {
  try {
    const entries = JSON.parse(recall("localStorage", RECENT));
    return Array.isArray(entries) ? entries : [];
  } catch {
    return [];
  }
}

/** Keep as many of the requests as there is room for, 12 at most; returns those. */
export function saveRecent(entries) {
  let kept = entries.slice(0, MOST);
  while (kept.length && !keep("localStorage", RECENT, JSON.stringify(kept))) kept = kept.slice(0, -1);
  if (!kept.length) keep("localStorage", RECENT, "[]");
  return kept;
}
