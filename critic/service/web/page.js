/* The page's state. index.html shows it; it inserts input and the service's responses as text only, never as HTML. */

import Alpine from "./vendor/alpine-csp-3.17.4.min.js";
import { keep, loadRecent, recall, saveRecent } from "./memory.js";
import { drawDifference, open, sameShape } from "./pictures.js";
import { examples, Failure, rate, REASONS, score } from "./service.js";

const MODES = [
  { name: "greedy", says: "The likeliest answer, with its reasoning." },
  { name: "average", says: "The mean of several answers, and their standard deviation. Slower." },
  { name: "expected", says: "The mean over the probabilities of the answer's digits, and their standard deviation." },
  { name: "direct", says: "The likeliest score, without reasoning. Faster." },
];
const SLOTS = [
  { name: "source", title: "Source" },
  { name: "edited", title: "Edited" },
];

Alpine.data("page", () => ({
  slots: SLOTS,
  modes: MODES,
  pictures: { source: null, edited: null },
  instruction: "",
  mode: "greedy",
  samples: 8,
  seed: 0,
  key: recall("sessionStorage", "critic.key"),
  wantsKey: Boolean(recall("sessionStorage", "critic.key")),
  over: "", // the slot under a dragged file
  problems: {},
  busy: false,
  seconds: 0,
  wait: 0,
  failure: null,
  edit: null, // being scored
  result: null, // {when, instruction, source, edited, verdict, rated, small}
  examples: [],
  examplesProblem: "",
  recent: loadRecent(),
  recentProblem: "",
  said: "",

  async init() {
    try {
      this.examples = await examples(this.key);
    } catch (failure) {
      this.examplesProblem = `The examples can't be loaded. ${failure.title}: ${failure.message}`;
    }
  },

  // --- the edit

  get modeSays() {
    return MODES.find((choice) => choice.name === this.mode).says;
  },

  get scoreLabel() {
    return this.busy ? "Scoring…" : this.wait ? `Score again in ${this.wait} s` : "Score";
  },

  sizeOf(picture) {
    return picture ? `${picture.width} × ${picture.height}` : "";
  },

  /* The width of a picture in a box with this ratio of width to height, as a style. */
  fit(picture, ratio) {
    return { "--width": `${100 * Math.min(1, picture.width / picture.height / ratio)}%` };
  },

  choose(event, slot) {
    this.put(slot, event.target.files);
    event.target.value = "";
  },

  drop(event, slot) {
    this.over = "";
    this.put(slot, event.dataTransfer.files);
  },

  paste(event) {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    this.put(this.pictures.source && !this.pictures.edited ? "edited" : "source", event.clipboardData.files);
  },

  /* One file goes into the slot; two fill both slots in order. */
  async put(slot, files) {
    const names = files.length > 1 ? ["source", "edited"] : [slot];
    await Promise.all(names.slice(0, files.length).map((name, place) => this.putOne(name, files[place])));
  },

  async putOne(slot, file) {
    try {
      const picture = await open(file);
      const old = this.pictures[slot];
      this.pictures[slot] = picture;
      this.release(old);
      this.problems[slot] = "";
      this.said = `${slot} picture: ${file.name}, ${this.sizeOf(picture)}`;
    } catch (error) {
      this.problems[slot] = error.message;
      this.said = error.message;
    }
  },

  /* Frees the memory of pictures that nothing uses any more. */
  release(...pictures) {
    const used = [this.pictures, this.edit, this.result].flatMap((pair) => [pair?.source?.url, pair?.edited?.url]);
    for (const picture of pictures) if (picture && !used.includes(picture.url)) URL.revokeObjectURL(picture.url);
  },

  async take(example) {
    try {
      const files = SLOTS.map(async ({ name }) => {
        const response = await fetch(example[name]);
        if (!response.ok) throw new Error(`HTTP ${response.status}`);
        return new File([await response.blob()], `${name} of the example`, { type: "image/png" });
      });
      await this.put("source", await Promise.all(files));
    } catch (error) {
      this.examplesProblem = `This example can't be loaded: ${error.message}`;
      return;
    }
    this.instruction = example.instruction;
    this.problems.instruction = this.examplesProblem = "";
    this.said = `Example: ${example.instruction}. Score it with the next button.`;
    this.$root.querySelector("button.main").focus();
  },

  // --- the result

  /* Shows a message at each invalid field and focuses the first. Returns whether all fields are valid. */
  check() {
    const { source, edited } = this.pictures;
    const whole = (text, low, high) => /^\d+$/.test(text) && Number(text) >= low && Number(text) <= high;
    const average = this.mode === "average";
    this.problems = {
      source: source ? "" : "Choose the source picture.",
      edited: edited ? "" : "Choose the edited picture.",
      instruction: this.instruction.trim() ? "" : "Enter the instruction.",
      samples: !average || whole(this.samples, 2, 32) ? "" : "Enter a whole number from 2 to 32.",
      seed: !average || whole(this.seed, 0, 2 ** 32 - 1) ? "" : "Enter a whole number from 0 to 4294967295.",
    };
    const wrong = Object.keys(this.problems).find((name) => this.problems[name]);
    if (!wrong) return true;
    this.said = this.problems[wrong];
    document.getElementById(wrong).focus();
    return false;
  },

  async score() {
    if (this.busy || this.wait || !this.check()) return;
    const { source, edited } = this.pictures;
    const edit = { instruction: this.instruction, source, edited, small: false, rated: null };
    const fields = { source: source.file, edited: edited.file, instruction: edit.instruction, mode: this.mode };
    if (this.mode === "average") Object.assign(fields, { samples: this.samples, seed: this.seed });
    this.edit = edit;
    this.clear();
    this.said = "The critic is scoring the edit.";
    this.busy = true;
    this.seconds = 0;
    const timer = setInterval(() => this.seconds++, 1000);
    this.asking = new AbortController();
    try {
      const verdict = await score(fields, this.key, this.asking.signal);
      if (this.key) keep("sessionStorage", "critic.key", this.key);
      this.result = { ...edit, verdict, when: Date.now() };
      this.remember(this.result);
    } catch (error) {
      if (error.name === "AbortError") this.said = "Stopped.";
      else if (error instanceof Failure) this.fail(error);
      else throw error;
    } finally {
      clearInterval(timer);
      this.busy = false;
      this.edit = null;
      this.release(source, edited);
    }
    if (this.result || this.failure) this.show();
  },

  stop() {
    this.asking.abort();
  },

  clear() {
    const { source, edited } = this.result ?? {};
    this.failure = this.result = null;
    this.release(source, edited);
  },

  fail(failure) {
    this.failure = failure;
    this.wait = failure.wait;
    const timer = setInterval(() => {
      if (this.wait) this.wait--;
      else clearInterval(timer);
    }, 1000);
    if (failure.status === 401) this.wantsKey = true;
  },

  /* Focuses and scrolls to the outcome, or to the key if it is missing. Screen readers then read it out. */
  async show() {
    this.said = "";
    await this.$nextTick();
    const { outcome } = this.$refs;
    const wanted = this.failure?.status === 401 ? document.getElementById("key") : outcome;
    wanted.focus({ preventScroll: true });
    const { top } = outcome.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) outcome.scrollIntoView();
  },

  get scored() {
    return this.result.verdict.score !== null;
  },

  get headline() {
    return this.result.small ? `Scored ${this.dateOf(this.result)}` : "The result";
  },

  get whyNone() {
    const { status } = this.result.verdict;
    return REASONS[status] ?? `The service's reason: ${status}.`;
  },

  number(value) {
    return value.toFixed(2);
  },

  /* The position of a score on the scale, as a style. */
  at(value) {
    return { "--at": (value - 1) / 4 };
  },

  get band() {
    const { score, spread } = this.result.verdict;
    return { "--from": (Math.max(1, score - spread) - 1) / 4, "--to": (Math.min(5, score + spread) - 1) / 4 };
  },

  get sampled() {
    return (this.result.verdict.samples ?? []).filter((sample) => sample !== null);
  },

  get spread() {
    const { spread } = this.result.verdict;
    return spread === null ? "" : `± ${this.number(spread)}`;
  },

  get scaleSays() {
    const { score, spread } = this.result.verdict;
    const between = spread === null ? "" : `, plus or minus ${this.number(spread)}`;
    return `${this.number(score)} on a scale from 1, very bad, to 5, excellent${between}`;
  },

  get spreadSays() {
    const { mode, spread, samples, argmax } = this.result.verdict;
    if (spread === null) {
      return mode === "expected"
        ? "The answer's format allows no standard deviation. This is the likeliest answer."
        : "A single answer has no standard deviation. The modes average and expected show how certain the critic is.";
    }
    if (mode === "average") {
      const lost = samples.length - this.sampled.length;
      return `The mean of ${this.sampled.length} answers (dots); ± is their standard deviation.${
        lost ? ` ${lost} more couldn't be read; the mean leaves failed answers out.` : ""
      }`;
    }
    return `The mean over the probabilities of the answer; ± is its standard deviation. The likeliest answer: ${this.number(argmax)}.`;
  },

  get axes() {
    return Object.entries(this.result.verdict.sub_scores ?? {}).map(([name, score]) => ({ name, score }));
  },

  get facts() {
    const { verdict } = this.result;
    const facts = {
      Release: verdict.version,
      Model: verdict.model,
      "Prompt contract": verdict.contract,
      Mode: verdict.mode,
      "Tokens read": verdict.prompt_tokens,
      "Tokens written": verdict.tokens,
      Latency: `${verdict.latency.toFixed(2)} s`,
      Request: verdict.request_id,
    };
    return Object.entries(facts).map(([name, value]) => ({ name, value }));
  },

  // --- recent requests

  dateOf(entry) {
    return new Date(entry.when).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  },

  remember(result) {
    const copy = ({ width, height, small }) => ({ width, height, url: small });
    const entry = { ...result, source: copy(result.source), edited: copy(result.edited), small: true };
    this.saveRecent([entry, ...loadRecent()]);
  },

  saveRecent(entries) {
    this.recent = saveRecent(entries);
    const full = entries.length && !this.recent.length;
    this.recentProblem = full ? "This browser has no room for recent requests, or its settings forbid storing them." : "";
  },

  async reopen(entry) {
    this.clear();
    await this.$nextTick();
    this.result = entry;
    this.show();
  },

  forget() {
    this.saveRecent([]);
    this.said = "The recent requests are cleared.";
  },
}));

Alpine.data("comparison", () => ({
  views: ["slider", "side by side", "difference"],
  view: "slider",
  place: 50,
  gain: 4,
  found: "",

  init() {
    this.$watch("view", (view) => view === "difference" && !this.noDifference && this.draw());
  },

  get ratio() {
    return this.result.source.width / this.result.source.height;
  },

  get shape() {
    return { "--ratio": this.ratio, "--place": `${this.place}%`, "--gain": this.gain };
  },

  get alike() {
    return sameShape(this.result.source, this.result.edited);
  },

  get unlike() {
    const { source, edited } = this.result;
    if (source.width === edited.width && source.height === edited.height) return "";
    const sizes = `The source is ${this.sizeOf(source)} pixels, the edited picture ${this.sizeOf(edited)}.`;
    return this.alike
      ? `${sizes} Here it is scaled to the source's size, which alone causes small differences.`
      : `${sizes} Their shapes differ, so the slider aligns their centres.`;
  },

  get noDifference() {
    if (this.result.small) return "Small copies can't be compared pixel by pixel: choose the pictures again.";
    return this.alike ? "" : "Pictures of different shapes can't be compared pixel by pixel.";
  },

  async draw() {
    const { source, edited } = this.result;
    const { share, width, height } = await drawDifference(this.$refs.difference, source, edited);
    const drawn = width === source.width ? "" : ` Drawn at ${width} × ${height}.`;
    this.found = `${(100 * share).toFixed(1)} % of the pixels differ by more than 8 of 255 in a channel.${drawn}`;
  },
}));

Alpine.data("rating", () => ({
  score: 3,
  given: false, // whether the slider has been moved
  rater: recall("localStorage", "critic.rater"),
  comment: "",
  sending: false,
  problem: "",

  get own() {
    return this.given ? Number(this.score).toFixed(1) : "–";
  },

  get thanks() {
    const { rated } = this.result;
    return rated ? `Stored as rating ${rated.id}: your score is ${rated.score.toFixed(1)}. Thank you.` : "";
  },

  async send() {
    const { result } = this;
    const [rater, given] = [this.rater.trim(), Number(this.score)];
    this.problem = this.given ? (rater ? "" : "Enter your name, the same one each time.") : "Move the slider to your score.";
    if (this.problem) return document.getElementById(this.given ? "rater" : "own").focus();
    this.sending = true;
    try {
      const rating = { receipt: result.verdict.receipt, rater, score: given, comment: this.comment };
      const { id } = await rate(rating, this.key);
      keep("localStorage", "critic.rater", rater);
      result.rated = { id, score: given };
      const mine = (entry) => entry.verdict.request_id === result.verdict.request_id;
      this.saveRecent(loadRecent().map((entry) => (mine(entry) ? { ...entry, rated: result.rated } : entry)));
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      this.problem = `Not stored. ${failure.title}: ${failure.message} ${failure.trace && `(${failure.trace})`}`;
    } finally {
      this.sending = false;
    }
  },
}));

Alpine.start();
