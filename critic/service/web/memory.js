/* Storage in this browser, which may forbid it or have no room. */

const RECENT = "critic.recent";
const MOST = 12;

/** Read a text from `localStorage` or `sessionStorage`, "" if there is none. */
export function recall(storage, name) {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Store a text. Returns whether that was possible. */
export function keep(storage, name, text) {
  try {
    window[storage].setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

/** The recent requests, newest first. */
export function loadRecent() {
  try {
    const entries = JSON.parse(recall("localStorage", RECENT));
    return Array.isArray(entries) ? entries : [];
  } catch {
    return [];
  }
}

/** Store as many of the requests as there is room for, at most 12. Returns the stored ones. */
export function saveRecent(entries) {
  let kept = entries.slice(0, MOST);
  while (kept.length && !keep("localStorage", RECENT, JSON.stringify(kept))) kept = kept.slice(0, -1);
  if (!kept.length) keep("localStorage", RECENT, "[]");
  return kept;
}
