"use strict";
// Reads the data of the page and draws its tables; curves.js, questions.js and trace.js do the rest. All that comes from
// models or files enters the page as text (textContent), never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const unpacked = (column) => (Array.isArray(column) ? column : column.of.map((i) => column.words[i]));
const table = (columns) => Object.fromEntries(Object.entries(columns).map(([name, c]) => [name, unpacked(c)]));
const questions = table(data.questions);
const samples = table(data.samples);
const severalRuns = data.runs.length > 1;
const state = { benchmark: data.benchmarks[0], theme: "auto" };

// Characters without a picture (controls, formats, lone surrogates, private and unassigned ones; of a turned direction of
// writing, of hidden tags) would hide what a model wrote: they are shown. The joiners of scripts and emoji stay.
const visible = (text) => text.replace(/(?![\t\n\u200c\u200d])\p{C}/gu, (c) =>
  (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : `<U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`));

// A new element: attributes by name (class, title, ...), events by on..., then children, strings as text.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().map((child) => (typeof child === "string" ? visible(child) : child)));
  return element;
}

const number = (value, digits = 0) =>
  value === null || value === undefined ? "-" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const signed = (value) => (value >= 0 ? "+" : "\u2212") + number(Math.abs(value), 1);
const interval = (low, high) => (low === null || low === undefined ? "no interval" : `[${number(low, 1)}, ${number(high, 1)}]`);
const cellName = (cell) => (severalRuns ? `${cell.run}: ${cell.cell}` : cell.cell);
const pairName = (pair) => `${cellName(data.cells[pair.a])} after ${cellName(data.cells[pair.b])}`;
const ownCells = () => data.cells.map((cell, i) => ({ ...cell, i })).filter((cell) => cell.benchmark === state.benchmark);
const ownPairs = (pairs) => pairs.filter((pair) => pair.benchmark === state.benchmark);

// columns: [title, class]; rows: lists of texts and elements, or of [content, class].
function fill(element, columns, rows) {
  const cell = (tag, content, name) => make(tag, { class: name, scope: tag === "th" ? "col" : null }, content);
  const body = rows.map((row) => make("tr", {}, row.map((content, i) => cell("td", content, columns[i][1]))));
  element.replaceChildren(
    make("thead", {}, make("tr", {}, columns.map(([title, name]) => cell("th", title, name)))),
    make("tbody", {}, body),
  );
}

// An accuracy on a scale from 0 to 100 with its interval; the number beside it says the same.
function bar(cell) {
  if (cell.accuracy === null) return "";
  const line = make("i"), dot = make("b");
  line.style.left = `${cell.low}%`;
  line.style.width = `${cell.high - cell.low}%`;
  dot.style.left = `${cell.accuracy}%`;
  return make("span", { class: "bar", "aria-hidden": "true" }, line, dot);
}

function drawTiles() {
  const cells = ownCells().filter((cell) => cell.accuracy !== null);
  const tile = (value, what, more) => make("div", { class: "tile" }, make("b", {}, value), make("span", {}, what), make("span", {}, more));
  const tiles = [];
  for (const run of data.runs) {
    const own = cells.filter((cell) => cell.run === run.name);
    if (!own.length) continue;
    const best = own.reduce((a, b) => (b.accuracy > a.accuracy ? b : a));
    const named = severalRuns ? `${run.name}: best accuracy` : "best accuracy";
    tiles.push(tile(`${number(best.accuracy, 1)}%`, named, `${interval(best.low, best.high)}, ${best.cell}`));
  }
  const measures = data.measures.filter((m) => m.benchmark === state.benchmark);
  for (const m of measures) {
    const of = `${severalRuns ? `${m.run}: ` : ""}${m.method.replaceAll("_", " ")}`;
    if (m.control) tiles.push(tile(`${number(m.control[0])}%`, `Control, ${of}`, `${interval(m.control[1], m.control[2])}, runs within their limit`));
    if (m.scaling[0] !== null) tiles.push(tile(number(m.scaling[0], 1), `Scaling, ${of}`, `${interval(m.scaling[1], m.scaling[2])}, points per doubling`));
  }
  const ids = questions.benchmark.filter((name) => name === state.benchmark).length;
  const all = ownCells();
  const total = all.reduce((sum, cell) => sum + cell.num_samples, 0), ungraded = all.reduce((sum, cell) => sum + cell.num_ungraded, 0);
  tiles.push(tile(number(ids), "questions", `${number(total)} samples, ${ungraded ? number(ungraded) : "none"} of them not graded`));
  byId("tiles").replaceChildren(...tiles);
}

function drawCells() {
  const columns = [["Cell", "name"], ["Method", "name"], ["Accuracy", "number"], ["95% interval", "number"], ["0 to 100%", ""],
    ["n", "number"], ["Thinking", "number"], ["Answer", "number"], ["Sampled", "number"], ["Thinking ended", "key"]];
  const rows = ownCells().map((cell) => [
    cellName(cell), (cell.method ?? "").replaceAll("_", " "), cell.accuracy === null ? "-" : `${number(cell.accuracy, 1)}%`,
    cell.accuracy === null ? "-" : interval(cell.low, cell.high), bar(cell), number(cell.num_questions),
    number(cell.thinking_tokens), number(cell.answer_tokens), number(cell.sampled_tokens),
    Object.entries(cell.ended ?? {}).map(([why, count]) => `${why} ${number(count)}`).join(", "),
  ]);
  fill(byId("cells"), columns, rows);
}

function drawPairs(name, pairs, titles, kind) {
  const own = ownPairs(pairs);
  byId(`${name}-section`).hidden = own.length === 0;
  const columns = [[titles[0], "name"], [titles[1], "name"], ["Difference", "number"], ["95% interval", "number"],
    ["n", "number"], ["Wrong to right", "number"], ["Right to wrong", "number"], ["McNemar's p", "number"]];
  const flips = (pair, direction) => {
    const count = pair[direction].length;
    if (!count) return "0";
    const show = () => showFlips(`${kind}:${pairs.indexOf(pair)}:${direction}`);
    return make("button", { type: "button", onclick: show, title: "Show these questions" }, number(count));
  };
  fill(byId(name), columns, own.map((pair) => [
    cellName(data.cells[pair.a]), cellName(data.cells[pair.b]), signed(pair.difference), interval(pair.low, pair.high),
    number(pair.num_questions), flips(pair, "to_right"), flips(pair, "to_wrong"), pair.mcnemar_p.toPrecision(2),
  ]));
}

function drawDomains() {
  const cells = ownCells();
  const names = [...new Set(cells.flatMap((cell) => Object.keys(cell.domains)))].sort();
  byId("domains-section").hidden = names.length < 2;
  const columns = [["Domain", "key"], ["n", "number"], ...cells.map((cell) => [cellName(cell), "number"])];
  fill(byId("domains"), columns, names.map((name) => [
    name, number(Math.max(...cells.map((cell) => cell.domains[name]?.n ?? 0))),
    ...cells.map((cell) => { const own = cell.domains[name]; return !own || own.accuracy === null ? "-" : `${number(own.accuracy)}%`; }),
  ]));
}

const facts = (pairs, name) => make("dl", { class: name }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));

function drawRuns() {
  const together = (object) => Object.entries(object ?? {}).map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") || "none" : value}`).join("; ");
  byId("runs").replaceChildren(...data.runs.map((run) => {
    const r = run.record;
    const regraded = (r.regraded ?? []).map((g) => `${g.graders.join(", ")}: ${g.num_changed} changed`).join("; ");
    return make("details", {}, make("summary", {}, `${run.name}: ${run.path}`), facts([
      ["command", r.command.join(" ")], ["commit", `${r.commit}${r.dirty ? ", with uncommitted changes (dirty.patch)" : ""}`],
      ["started", r.started], ["finished", r.finished], ["seconds", `${number(r.seconds)} in ${r.sittings} sitting${r.sittings > 1 ? "s" : ""}`],
      ["seed", r.seed], ["hardware", together(r.hardware)], ["versions", together(r.versions)],
      ["inputs (digests)", together(r.inputs)], ["graded again", regraded],
    ], "record"), make("pre", {}, run.config));
  }));
  const notes = data.notes.map((note) => make("li", {}, note));
  byId("notes").replaceChildren(make("h3", {}, "Left out of this file"), notes.length ? make("ul", {}, notes) : make("p", { class: "quiet" }, "Nothing: every sample's text is here."));
}

function drawBenchmark() {
  drawTiles();
  drawCells();
  drawPairs("waits", data.waits, ["Cell", "Compared with"], "waits");
  drawPairs("differences", data.differences, ["Cell", "Compared with"], "differences");
  drawDomains();
  drawCurves();
  drawExamples();
  drawFilters();
  drawQuestions();
}

const THEMES = { auto: "light dark", light: "light", dark: "dark" };
function nextTheme() {
  const names = Object.keys(THEMES);
  const name = names[(names.indexOf(state.theme) + 1) % names.length];
  state.theme = name;
  document.documentElement.style.colorScheme = THEMES[name];
  byId("theme").textContent = `Theme: ${name}`;
  drawCurves();
}

function start() {
  const dates = data.runs.map((run) => run.record.finished?.slice(0, 10)).filter(Boolean);
  const commits = [...new Set(data.runs.map((run) => run.record.commit.slice(0, 10)))];
  byId("made").textContent = `${data.runs.length} run${severalRuns ? "s" : ""}, finished ${[...new Set(dates)].join(", ")}; commit ${commits.join(", ")}; ${number(samples.repeat?.length ?? 0)} samples`;
  byId("benchmark").append(...data.benchmarks.map((name) => make("option", { value: name }, name)));
  byId("benchmark-label").hidden = data.benchmarks.length < 2;
  byId("benchmark").addEventListener("change", () => { state.benchmark = byId("benchmark").value; drawBenchmark(); });
  byId("theme").addEventListener("click", nextTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCurves);
  startQuestions();
  startTrace();
  drawRuns();
  drawBenchmark();
  openFromAddress();
}
