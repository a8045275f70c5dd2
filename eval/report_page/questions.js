// The table of questions: filtered, sorted, fifty at a time.

const PAGE_SIZE = 50;
const view = { rows: [], page: 0, sort: "order", descending: false };
const samplesOf = questions.id ? questions.id.map(() => []) : []; // question: its samples' numbers
(samples.question ?? []).forEach((question, i) => samplesOf[question].push(i));
const flipsOf = new Map(); // question: [{text, title, gain, key, cell}]; cell: the one after the flip

function markFlips() {
  for (const [kind, pairs] of [["waits", data.waits], ["differences", data.differences]]) {
    pairs.forEach((pair, i) => {
      const cell = data.cells[pair.a], other = data.cells[pair.b];
      const name = kind === "waits" ? `${cell.ignore_text ?? "Wait"} \u00d7${cell.num_ignore}` : `${cell.run}, not ${other.run}, ${cell.cell}`;
      for (const [direction, arrow] of [["to_right", "wrong \u2192 right"], ["to_wrong", "right \u2192 wrong"]]) {
        for (const question of pair[direction]) {
          if (!flipsOf.has(question)) flipsOf.set(question, []);
          flipsOf.get(question).push({ text: `${name}: ${arrow}`, title: pairName(pair), gain: direction === "to_right", key: `${kind}:${i}:${direction}`, cell: pair.a });
        }
      }
    });
  }
}

// What the table says of a question, over the samples of the chosen cells.
function summary(question, cell) {
  const own = samplesOf[question].filter((i) => cell === null || samples.cell[i] === cell);
  const graded = own.filter((i) => samples.correct[i] !== null);
  const right = graded.filter((i) => samples.correct[i]).length;
  const lengths = own.map((i) => samples.thinking[i]).filter((n) => n !== null);
  return {
    question, own, right, graded: graded.length,
    share: graded.length ? right / graded.length : null,
    thinking: lengths.length ? lengths.reduce((a, b) => a + b, 0) / lengths.length : null,
    flips: flipsOf.get(question) ?? [],
  };
}

function marks(row) {
  const byCell = new Map();
  for (const i of row.own) {
    if (!byCell.has(samples.cell[i])) byCell.set(samples.cell[i], []);
    byCell.get(samples.cell[i]).push(samples.correct[i]);
  }
  const ordered = [...byCell].sort(([a], [b]) => a - b);
  const all = ordered.map(([cell, verdicts]) => {
    const graded = verdicts.filter((v) => v !== null), right = graded.filter(Boolean).length;
    const kind = !graded.length ? "none" : right === graded.length ? "right" : right ? "half" : "wrong";
    const mark = make("span", { class: `mark ${kind}`, title: `${cellName(data.cells[cell])}: ${right} of ${graded.length} right` });
    if (kind === "half") mark.style.setProperty("--share", right / graded.length);
    return mark;
  });
  return make("span", { role: "img", "aria-label": `${row.right} of ${row.graded} answers right` }, all);
}

const COLUMNS = [
  { name: "order", title: "Question", class: "text", value: (row) => row.question },
  { name: "domain", title: "Domain", class: "", value: (row) => questions.domain[row.question] ?? "" },
  { name: "answer", title: "Reference", class: "short", value: (row) => questions.answer[row.question] ?? "" },
  { name: "share", title: "Right", class: "number", value: (row) => row.share ?? -1 },
  { name: "marks", title: "By cell", class: "marks", value: null },
  { name: "flips", title: "Flipped", class: "", value: (row) => row.flips.length },
  { name: "thinking", title: "Thinking", class: "number", value: (row) => row.thinking ?? -1 },
];

function drawFilters() {
  const option = (value, text) => make("option", { value }, text);
  byId("cell").replaceChildren(option("", "all"), ...ownCells().map((cell) => option(cell.i, cellName(cell))));
  const own = questions.domain?.filter((_, i) => questions.benchmark[i] === state.benchmark) ?? [];
  byId("domain").replaceChildren(option("", "any"), ...[...new Set(own)].sort().map((name) => option(name, name)));
  const flips = [["waits", data.waits], ["differences", data.differences]].flatMap(([kind, pairs]) =>
    ownPairs(pairs).flatMap((pair) => ["to_right", "to_wrong"].filter((d) => pair[d].length).map((d) =>
      option(`${kind}:${pairs.indexOf(pair)}:${d}`, `${d === "to_right" ? "wrong to right" : "right to wrong"} (${pair[d].length}): ${pairName(pair)}`))));
  byId("flip").replaceChildren(option("", "any"), ...flips);
}

function filtered() {
  const words = byId("search").value.trim().toLowerCase(), verdict = byId("verdict").value;
  const domain = byId("domain").value, flip = byId("flip").value;
  const cell = byId("cell").value === "" ? null : Number(byId("cell").value);
  const holds = (text) => text !== null && text !== undefined && text.toLowerCase().includes(words);
  const rows = [];
  for (let question = 0; question < samplesOf.length; question++) {
    if (questions.benchmark[question] !== state.benchmark || (domain && questions.domain[question] !== domain)) continue;
    const row = summary(question, cell);
    if (!row.own.length || (flip && !row.flips.some((f) => f.key === flip))) continue;
    if (verdict === "right" && row.share !== 1) continue;
    if (verdict === "wrong" && row.share !== 0) continue;
    if (verdict === "mixed" && !(row.share > 0 && row.share < 1)) continue;
    if (verdict === "ungraded" && row.graded === row.own.length) continue;
    if (words && ![questions.id, questions.text, questions.answer, questions.domain].some((column) => holds(column[question])) &&
      !row.own.some((i) => holds(samples.extracted[i]))) continue;
    rows.push(row);
  }
  const { value } = COLUMNS.find((column) => column.name === view.sort);
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  return rows.sort((a, b) => (view.descending ? -1 : 1) * compare(value(a), value(b)) || a.question - b.question);
}

function drawQuestions() {
  view.rows = filtered();
  view.page = 0;
  drawPage();
}

function tableRow(row) {
  const q = row.question;
  const flips = row.flips.map((f) => make("button", { type: "button", class: `flip ${f.gain ? "gain" : "loss"}`, title: f.title, onclick: (e) => { e.stopPropagation(); openQuestion(q, f.cell); } }, f.text));
  const contents = [
    [make("div", { class: "clamp" }, questions.text[q] ?? "text not in the run"), make("span", { class: "id" }, questions.id[q])],
    questions.domain[q] ?? "", questions.answer[q] ?? "-", row.graded ? `${row.right}/${row.graded}` : "not graded", marks(row), flips, number(row.thinking),
  ];
  const open = () => openQuestion(q);
  const line = make("tr", { tabindex: 0, "data-question": q, onclick: open, onkeydown: (e) => { if (e.key === "Enter" && e.target === line) open(); } });
  line.append(...contents.map((content, i) => make("td", { class: COLUMNS[i].class, title: COLUMNS[i].class === "short" ? visible(String(content)) : null }, content)));
  return line;
}

function drawPage() {
  const numPages = Math.max(1, Math.ceil(view.rows.length / PAGE_SIZE));
  view.page = Math.min(Math.max(view.page, 0), numPages - 1);
  const heads = COLUMNS.map((column) => {
    const isSorted = column.name === view.sort;
    const sorted = isSorted ? (view.descending ? "descending" : "ascending") : null;
    const content = column.value ? make("button", { type: "button", onclick: () => sortBy(column.name), "data-sort": column.name }, `${column.title}${isSorted ? (view.descending ? " \u25be" : " \u25b4") : ""}`) : column.title;
    return make("th", { class: column.class === "number" ? "number" : null, scope: "col", "aria-sort": sorted }, content);
  });
  const rows = view.rows.slice(view.page * PAGE_SIZE, (view.page + 1) * PAGE_SIZE).map(tableRow);
  byId("table").replaceChildren(make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows));
  byId("count").textContent = `${number(view.rows.length)} question${view.rows.length === 1 ? "" : "s"}.`;
  byId("page").textContent = `page ${number(view.page + 1)} of ${number(numPages)}`;
  byId("previous").disabled = view.page === 0;
  byId("next").disabled = view.page === numPages - 1;
}

function sortBy(name) {
  view.descending = view.sort === name ? !view.descending : ["share", "flips", "thinking"].includes(name);
  view.sort = name;
  drawQuestions();
  document.querySelector(`[data-sort="${name}"]`).focus();
}

// Of the pair whose flips are shown the cell after the flip, else the cell of the filter; null: none is chosen.
function chosenCell() {
  const [kind, pair] = byId("flip").value.split(":");
  if (kind) return data[kind][pair].a;
  return byId("cell").value === "" ? null : Number(byId("cell").value);
}

function showFlips(key) {
  byId("filters").reset();
  byId("flip").value = key;
  drawQuestions();
  byId("questions").scrollIntoView({ behavior: "smooth" });
  byId("flip").focus({ preventScroll: true });
}

function moveRow(step) {
  const rows = [...document.querySelectorAll("#table tbody tr")];
  const at = rows.indexOf(document.activeElement?.closest("tr"));
  rows[Math.min(Math.max(at + step, 0), rows.length - 1)]?.focus();
}

function startQuestions() {
  markFlips();
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", drawQuestions);
  byId("filters").addEventListener("reset", () => setTimeout(drawQuestions));
  byId("previous").addEventListener("click", () => { view.page--; drawPage(); });
  byId("next").addEventListener("click", () => { view.page++; drawPage(); });
  addEventListener("keydown", (event) => {
    if (byId("viewer").open || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
    if (event.key === "j") moveRow(1);
    if (event.key === "k") moveRow(-1);
    if (["ArrowDown", "ArrowUp"].includes(event.key) && event.target.closest("#table tbody")) {
      event.preventDefault();
      moveRow(event.key === "ArrowDown" ? 1 : -1);
    }
  });
}
