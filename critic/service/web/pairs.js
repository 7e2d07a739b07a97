/* The state of the page of pairs. pairs.html shows it; it inserts the service's responses as text only, never as HTML. */

import Alpine from "./vendor/alpine-csp-3.17.4.min.js";
import { keep, recall } from "./memory.js";
import { Failure, nextPair, vote } from "./service.js";

const CHOICES = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie", ArrowDown: "tie" };

Alpine.data("pairs", () => ({
  rater: recall("localStorage", "critic.rater"),
  key: recall("sessionStorage", "critic.key"),
  wantsKey: Boolean(recall("sessionStorage", "critic.key")),
  started: false,
  busy: false,
  over: false,
  pair: null, // {receipt, instruction, source, left, right}
  waiting: "", // the choice whose vote isn't stored yet
  voted: 0,
  pairs: 0,
  problem: "",
  said: "",

  get progress() {
    return `${this.voted} of ${this.pairs} pairs voted on by ${this.rater}`;
  },

  /* Whether there is something to try again: a vote to send, or a pair to get. */
  get unfinished() {
    return this.started && (Boolean(this.waiting) || (!this.pair && !this.over));
  },

  /* Tells the style sheet a picture's ratio of width to height, by which it limits the height. */
  shape(picture) {
    picture.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
  },

  async begin() {
    this.rater = this.rater.trim();
    this.problem = this.rater ? "" : "Enter your name, the same one each time.";
    if (this.problem) return document.getElementById("rater").focus();
    keep("localStorage", "critic.rater", this.rater);
    await this.ask(() => this.load());
    if (this.started) this.$refs.title.focus();
  },

  /* Sends a vote that wasn't stored, then shows the next pair. */
  async again() {
    await this.ask(() => (this.waiting ? this.send() : this.load()));
  },

  async vote(choice) {
    if (!this.pair || this.busy || this.waiting) return;
    this.waiting = choice;
    await this.ask(() => this.send());
  },

  press(event) {
    const { key, target } = event;
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || target.tagName === "INPUT") return;
    if (!Object.hasOwn(CHOICES, key) || !this.pair) return;
    event.preventDefault();
    this.vote(CHOICES[key]);
  },

  async send() {
    try {
      await vote(this.pair.receipt, this.waiting, this.key);
      this.said = `Your vote: ${this.waiting}.`;
    } catch (failure) {
      if (failure.status !== 409 && failure.status !== 422) throw failure;
      this.problem = `Your vote isn't stored: ${failure.message}`; // no repetition can store it: go on with a new pair
    }
    this.waiting = "";
    this.pair = null;
    await this.load();
  },

  async load() {
    const next = await nextPair(this.rater, this.key);
    Object.assign(this, { started: true, pair: next.pair, voted: next.voted, pairs: next.pairs, over: !next.pair });
    keep("sessionStorage", "critic.key", this.key);
    window.scrollTo(0, 0);
  },

  /* Does one thing at a time, and shows why it failed. */
  async ask(act) {
    if (this.busy) return;
    this.busy = true;
    this.problem = "";
    try {
      await act();
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      this.problem = `${failure.title}: ${failure.message} ${failure.trace && `(${failure.trace})`}`;
      if (failure.status === 401) {
        if (this.waiting) this.problem += " Your vote isn't stored.";
        Object.assign(this, { wantsKey: true, started: false, pair: null, waiting: "" });
      }
    } finally {
      this.busy = false;
    }
    if (this.wantsKey && !this.started) this.$nextTick(() => document.getElementById("key").focus());
  },
}));

Alpine.start();
