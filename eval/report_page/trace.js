// The viewer: one question, its samples, and what each thought, sampled and forced text told apart.

const CHARS_AT_ONCE = 100000; // more of one text is shown on request: laying out a line of a megabyte takes seconds
const opened = { question: null, sample: null, path: null };
const inflated = new Map(); // chunk: promise of its list of texts

async function inflate(chunk) {
  if (!byId(`texts-${chunk}`) && document.readyState === "loading") { // the file is still being read
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  const bytes = Uint8Array.from(atob(byId(`texts-${chunk}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const list = await new Response(stream).json();
  for (const [i, { pieces }] of list.entries()) { // [phase, source, length, back]: text that an earlier sample begins with
    if (pieces?.[0]?.length === 4) pieces[0].splice(2, 2, list[i - pieces[0][3]].pieces[0][2].slice(0, pieces[0][2]));
  }
  return list;
}

// The texts of a sample, or of a question; null where they were left out of the file.
async function textsOf(index, ofQuestion) {
  const at = data.chunks.findIndex((c) => c.group === ofQuestion && c.first <= index && index < c.first + c.count);
  if (at < 0) return null;
  if (!inflated.has(at)) inflated.set(at, inflate(at));
  return (await inflated.get(at))[index - data.chunks[at].first];
}

// Adds text to an element: its beginning, and a button for the rest.
function addText(element, text) {
  let end = CHARS_AT_ONCE;
  if (/[\ud800-\udbff]/.test(text[end - 1])) end++; // not between the halves of a character
  element.append(visible(text.slice(0, end)));
  if (text.length > end) {
    const more = () => { button.remove(); addText(element, text.slice(end)); };
    const button = make("button", { type: "button", class: "more", onclick: more }, `Show more (${number(text.length - end)} characters left)`);
    element.append(button);
  }
  return element;
}

const SOURCES = { sampled: "sampled by the model", forced: "forced: written by us, not by the model", unknown: "which tokens were forced is not known" };

function drawPieces(pieces) {
  const parts = [];
  for (const phase of ["thinking", "answer"]) {
    const own = pieces.filter((piece) => piece[0] === phase);
    if (!own.length) continue;
    const spans = own.map(([, source, text]) => {
      const isForced = source === "forced";
      return addText(make(isForced ? "mark" : "span", { class: source, title: SOURCES[source], tabindex: isForced ? -1 : null }), text);
    });
    parts.push(make("h3", {}, phase === "thinking" ? "Thinking" : "Answer"), make("div", { class: "tokens" }, spans));
  }
  return parts;
}

// The grade and its reason, as far as the record says.
function verdictOf(one, reference) {
  const found = one.extracted === null || one.extracted === undefined ? null : `\u201c${one.extracted}\u201d`;
  const gold = reference === null || reference === undefined ? "the reference" : `the reference \u201c${reference}\u201d`;
  const by = one.grader ? ` Graded by ${one.grader}.` : "";
  if (one.correct === null || one.correct === undefined) return ["none", `Not graded: ${one.error ?? (reference === null ? "there is no reference" : "the rules could not decide")}.${found ? ` Answer found: ${found}.` : ""}${by}`];
  if (one.correct) return ["right", found ? `Right: ${found} is the same as ${gold}.${by}` : `Right.${by}`];
  if (one.exhausted) return ["wrong", `Wrong: none of ${one.num_tries} tries was accepted.`];
  return ["wrong", found ? `Wrong: ${found} is not ${gold}.${by}` : `Wrong: no answer was found; ${gold} was asked for.${by}`];
}

const ENDED = { natural: "the model ended it", budget: "cut at the budget", context: "the context was full", cancelled: "cancelled", error: "an error" };
const FINISH = { stop: "the model ended it", length: "cut at its limit" };
const NAMES = { // facts in this order, with their names; others follow as they are called
  ended: ["thinking ended", (v) => ENDED[v] ?? v], answer_finish: ["answer ended", (v) => FINISH[v] ?? v],
  num_ignored: ["ends ignored", String], num_suppressed: ["ends suppressed", String],
  num_thinking_tokens: ["thinking tokens", number], accepted_thinking_tokens: ["of them in the accepted try", number], num_answer_tokens: ["answer tokens", number], num_steps: ["steps", String],
  num_sampled_tokens: ["sampled tokens", number], num_forced_tokens: ["forced tokens", number],
  num_prompt_tokens: ["prompt tokens", number], num_cached_tokens: ["cached tokens", number],
  repetition: ["ends in a loop", (v) => (v ? "yes" : "no")], mean_logprob: ["mean log-probability", (v) => number(v, 3)],
  num_tries: ["tries", number], num_scorer_tokens: ["tokens read by the scorer", number],
  score: ["score", (v) => number(v, 4)], seconds: ["seconds", (v) => number(v, 2)], flops: ["FLOPs (estimate)", (v) => v.toExponential(2)],
};
const SAID_BEFORE = ["correct", "extracted", "grader", "exhausted"];

function drawFacts(own) {
  const known = Object.keys(NAMES).filter((name) => name in own).map((name) => [NAMES[name][0], NAMES[name][1](own[name])]);
  const others = Object.keys(own).filter((name) => !(name in NAMES) && !SAID_BEFORE.includes(name))
    .map((name) => [name.replaceAll("_", " "), typeof own[name] === "object" ? JSON.stringify(own[name]) : own[name]]);
  return facts([...known, ...others], "facts");
}

async function drawTrace() {
  const { question, sample, path } = opened;
  const [asked, own] = await Promise.all([textsOf(question, true), textsOf(sample, false)]);
  if (opened.question !== question || opened.sample !== sample || opened.path !== path) return; // moved on meanwhile
  const shown = own && path !== null ? own.paths[path] : own;
  const row = { correct: samples.correct[sample], extracted: samples.extracted[sample] };
  const reference = asked?.answer ?? questions.answer[question];
  const [kind, reason] = verdictOf(shown ? shown.facts : row, reference);
  const cell = data.cells[samples.cell[sample]];
  const parts = [
    make("h3", {}, "Question"), addText(make("div", { class: "prose" }), asked?.text ?? questions.text[question] ?? "Its text is not in the run."),
    make("h3", {}, `${cellName(cell)}, sample ${samples.repeat[sample] + 1}`),
    make("div", { class: `verdict ${kind}` }, reason.slice(0, 3000)),
  ];
  if (own?.paths) {
    const choices = [null, ...own.paths.keys()].map((p) => make("button", { type: "button", "aria-pressed": String(p === path), onclick: () => { opened.path = p; drawTrace(); } },
      p === null ? "chosen" : `path ${p + 1}: score ${number(own.paths[p].facts.score, 3)}${own.paths[p].facts.correct ? ", right" : ""}`));
    parts.push(make("h3", {}, "Paths of the search"), make("div", { class: "paths" }, choices));
  }
  if (shown === null) parts.push(make("p", { class: "quiet" }, "The text of this sample was left out of the file; the end of the page says why."));
  else parts.push(make("p", { class: "quiet" }, legendOf(shown)), ...drawPieces(shown.pieces), make("h3", {}, "Facts"), drawFacts(shown.facts));
  byId("trace").replaceChildren(...parts);
  byId("trace").scrollTop = 0;
}

function legendOf({ pieces, facts }) {
  if (facts.exhausted) return "No text: those of tries that were not accepted are not kept.";
  if (!pieces.length) return "No text was sampled.";
  if (pieces.some((piece) => piece[1] === "unknown")) return "Which of these tokens were sampled and which were forced is not known.";
  if (!pieces.some((piece) => piece[1] === "forced")) return "All of this text was sampled: nothing was forced.";
  return ["Text that was forced is marked ", make("mark", { class: "forced" }, "like this"), "; all other was sampled."];
}

function drawList() {
  const own = samplesOf[opened.question];
  const ordered = [...own].sort((a, b) => samples.cell[a] - samples.cell[b] || samples.repeat[a] - samples.repeat[b]);
  const several = new Set(own.map((i) => samples.repeat[i])).size > 1;
  const children = [];
  let run = null;
  for (const i of ordered) {
    const cell = data.cells[samples.cell[i]];
    if (severalRuns && cell.run !== run) children.push(make("h3", {}, (run = cell.run)));
    const verdict = samples.correct[i] === null ? "none" : samples.correct[i] ? "right" : "wrong";
    const name = `${cell.cell}${several ? ` #${samples.repeat[i] + 1}` : ""}`;
    const flips = samples.repeat[i] ? [] : (flipsOf.get(opened.question) ?? []).filter((f) => f.cell === samples.cell[i]);
    children.push(make("button", { type: "button", "data-sample": i, "aria-current": i === opened.sample ? "true" : null, tabindex: i === opened.sample ? 0 : -1, onclick: () => openSample(i) },
      make("span", { class: `mark ${verdict}`, role: "img", "aria-label": verdict === "none" ? "not graded" : verdict }),
      make("span", { class: "label" }, name, flips.map((f) => make("span", { class: `flip ${f.gain ? "gain" : "loss"}`, title: f.title }, f.text))),
      make("span", { class: "quiet", title: "thinking tokens" }, number(samples.thinking[i]))));
  }
  byId("list").replaceChildren(...children);
  document.querySelector("#list [aria-current]").scrollIntoView({ block: "nearest" });
}

function addressOf(sample) {
  const cell = data.cells[samples.cell[sample]], question = questions.id[samples.question[sample]];
  return `#${new URLSearchParams({ benchmark: cell.benchmark, question, run: cell.run, cell: cell.cell, sample: samples.repeat[sample] + 1 })}`;
}

// Links to three right answers in the most accurate cell: the shortest thinking, that in the middle, the longest.
function drawExamples() {
  const best = ownCells().reduce((a, b) => ((b.accuracy ?? -1) > (a?.accuracy ?? -1) ? b : a), null);
  const right = [...(samples.cell ?? []).keys()].filter((i) => samples.cell[i] === best?.i && samples.correct[i] && samples.thinking[i] !== null);
  right.sort((a, b) => samples.thinking[a] - samples.thinking[b]);
  const chosen = [...new Set([0, Math.floor((right.length - 1) / 2), right.length - 1])].map((at) => right[at]);
  byId("examples").hidden = right.length === 0;
  if (!right.length) return;
  const links = chosen.flatMap((i, at) => [at ? ", " : "", make("a", { href: addressOf(i) }, `${number(samples.thinking[i])} tokens`)]);
  byId("examples").replaceChildren(`Examples of right answers (${visible(cellName(best))}), by their thinking: `, ...links, ".");
}

function openSample(sample) {
  opened.sample = sample;
  opened.path = null;
  history.replaceState(null, "", addressOf(sample));
  const wasInList = document.activeElement?.closest("#list");
  drawList();
  (wasInList ? document.querySelector("#list [aria-current]") : byId("trace")).focus({ preventScroll: true });
  return drawTrace();
}

// At first: a sample of this cell, or the last cell's, which is the longest of a grid.
function openQuestion(question, cell = chosenCell()) {
  opened.question = question;
  const own = samplesOf[question], first = own.filter((i) => cell === null || samples.cell[i] === cell);
  const benchmark = data.benchmarks.length > 1 ? `${questions.benchmark[question]}, ` : "";
  byId("viewer-title").textContent = visible(`${benchmark}question ${questions.id[question]}`);
  if (!byId("viewer").open) byId("viewer").showModal();
  return openSample((first.length ? first : own).reduce((a, b) => (samples.cell[b] > samples.cell[a] ? b : a)));
}

// An address that names a sample opens it: #benchmark=...&question=...&run=...&cell=...&sample=1
function openFromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const question = (questions.id ?? []).findIndex((id, i) => id === wanted.get("question") && questions.benchmark[i] === (wanted.get("benchmark") ?? questions.benchmark[i]));
  if (question < 0) return;
  state.benchmark = byId("benchmark").value = questions.benchmark[question];
  drawBenchmark();
  openQuestion(question);
  const sample = samplesOf[question].find((i) => data.cells[samples.cell[i]].cell === wanted.get("cell") &&
    data.cells[samples.cell[i]].run === (wanted.get("run") ?? data.cells[samples.cell[i]].run) && String(samples.repeat[i] + 1) === (wanted.get("sample") ?? "1"));
  if (sample !== undefined) openSample(sample);
}

function moveSample(step) {
  const all = [...document.querySelectorAll("#list [data-sample]")].map((button) => Number(button.dataset.sample));
  const next = all[all.indexOf(opened.sample) + step];
  if (next !== undefined) openSample(next);
}

function moveQuestion(step) {
  const next = view.rows[view.rows.findIndex((row) => row.question === opened.question) + step];
  if (next) openQuestion(next.question);
}

function nextForced() {
  const all = [...document.querySelectorAll("#trace .tokens .forced")];
  const next = all[(all.indexOf(document.activeElement) + 1) % all.length];
  next?.scrollIntoView({ block: "center" });
  next?.focus({ preventScroll: true });
}

function startTrace() {
  const keys = { j: () => moveQuestion(1), k: () => moveQuestion(-1), l: () => moveSample(1), h: () => moveSample(-1), n: nextForced };
  byId("close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("close", () => {
    history.replaceState(null, "", "#");
    const at = view.rows.findIndex((row) => row.question === opened.question);
    if (at >= 0 && Math.floor(at / PAGE_SIZE) !== view.page) { view.page = Math.floor(at / PAGE_SIZE); drawPage(); }
    document.querySelector(`#table [data-question="${opened.question}"]`)?.focus();
  });
  addEventListener("keydown", (event) => {
    if (!byId("viewer").open || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]?.();
    if (["ArrowDown", "ArrowUp"].includes(event.key) && event.target.closest("#list")) {
      event.preventDefault();
      moveSample(event.key === "ArrowDown" ? 1 : -1);
    }
  });
  addEventListener("hashchange", openFromAddress);
}

start();
