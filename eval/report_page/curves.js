// The chart: uPlot draws axes, lines and grid; points, with a shape a curve, and intervals are drawn over them.

// Okabe and Ito's colour-blind-safe palette; its dark ones lightened where the ground is dark
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const COLOURS_ON_DARK = ["#56B4E9", "#F0854A", "#2FC49A", "#E39AC4", "#F0E442", "#8FA8FF"];
const NUM_SHOWN = 6; // curves switched on at first
const off = new Map(); // name of a curve: is it switched off? By benchmark and axis
let chart = null;

const axisName = () => document.querySelector("#axis input:checked").value;
const ownCurves = () => data.curves.filter((c) => c.benchmark === state.benchmark && c.axis === axisName());
const keyOf = (curve) => `${curve.benchmark} ${curve.axis} ${curve.name}`;
const isOff = (curve, i) => off.get(keyOf(curve)) ?? (i >= NUM_SHOWN || curve.is_bound);
const isDark = () => state.theme === "dark" || (state.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
const colourOf = (i) => (isDark() ? COLOURS_ON_DARK : COLOURS)[i % COLOURS.length];
const dashOf = (curve, i) => (curve.is_bound ? [2, 4] : i >= COLOURS.length ? [7, 4] : []);
const xOf = (point) => Math.max(point.x, 1); // no thinking at all stands at the left end of the log axis

function drawShape(context, shape, x, y, size) {
  const path = new Path2D();
  const corners = [null, [[-1, -1], [1, -1], [1, 1], [-1, 1]], [[0, -1.25], [1.15, 0.9], [-1.15, 0.9]], [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]], [[0, 1.25], [1.15, -0.9], [-1.15, -0.9]]][shape % 5];
  if (corners === null) path.arc(x, y, size, 0, 2 * Math.PI);
  else corners.forEach(([dx, dy], i) => path[i ? "lineTo" : "moveTo"](x + dx * size, y + dy * size));
  path.closePath();
  context.fill(path);
}

function drawPoints(u, curves) {
  const context = u.ctx, scale = devicePixelRatio;
  context.save();
  context.lineWidth = 1.2 * scale;
  for (const { curve, i } of curves) {
    context.strokeStyle = context.fillStyle = colourOf(i);
    for (const point of curve.points) {
      const x = u.valToPos(xOf(point), "x", true);
      const [y, low, high] = [point.accuracy, point.low, point.high].map((v) => u.valToPos(v, "y", true));
      context.beginPath();
      context.moveTo(x, low);
      context.lineTo(x, high);
      for (const end of [low, high]) { context.moveTo(x - 3 * scale, end); context.lineTo(x + 3 * scale, end); }
      context.stroke();
      drawShape(context, i, x, y, 4 * scale);
    }
  }
  context.restore();
}

// The point nearest to the mouse, within 30 pixels, in words below the chart.
function showNearest(u, curves) {
  const { left, top } = u.cursor;
  let nearest = null, least = 30;
  for (const { curve } of curves) {
    for (const point of curve.points) {
      const distance = Math.hypot(u.valToPos(xOf(point), "x") - left, u.valToPos(point.accuracy, "y") - top);
      if (distance < least) [nearest, least] = [{ curve, point }, distance];
    }
  }
  byId("point").textContent = nearest
    ? visible(`${nearest.curve.name}, ${nearest.point.label}: ${number(nearest.point.accuracy, 1)}% ${interval(nearest.point.low, nearest.point.high)} at ${number(nearest.point.x)} tokens`)
    : "Point at the chart to read a value.";
}

function drawChart() {
  const curves = ownCurves().map((curve, i) => ({ curve, i })).filter(({ curve, i }) => !isOff(curve, i));
  chart?.destroy();
  chart = null;
  if (!curves.length) {
    byId("chart").replaceChildren(make("p", { class: "quiet" }, ownCurves().length ? "All curves are switched off." : "No curve: tokens or accuracies are not known."));
    return;
  }
  byId("chart").replaceChildren();
  const style = getComputedStyle(document.body);
  const text = style.color, line = getComputedStyle(document.querySelector("section")).borderBottomColor;
  const xs = curves.flatMap(({ curve }) => curve.points.map(xOf));
  const ends = [2 ** Math.floor(Math.log2(Math.min(...xs) / 1.1)), 2 ** Math.ceil(Math.log2(Math.max(...xs) * 1.1))];
  const columns = uPlot.join(curves.map(({ curve }) => {
    const at = new Map(curve.points.map((p) => [xOf(p), p.accuracy])); // of two at one place the line takes the later
    const sorted = [...at.keys()].sort((a, b) => a - b);
    return [sorted, sorted.map((x) => at.get(x))];
  }));
  const font = `12.5px ${style.fontFamily}`;
  const axis = { stroke: text, font, labelFont: font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  const top = Math.min(100, Math.max(...curves.flatMap(({ curve }) => curve.points.map((p) => p.high))) * 1.1 + 1);
  chart = new uPlot({
    width: Math.max(320, byId("chart").clientWidth), height: 380,
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: { x: { time: false, distr: 3, log: 2, range: () => ends }, y: { range: () => [0, top] } },
    axes: [
      { ...axis, grid: { show: false }, label: axisName() === "thinking" ? "mean thinking tokens (log scale)" : "mean sampled tokens (log scale)", values: (u, ticks) => ticks.map((t) => (t === null || t < 1 ? "" : number(t))) },
      { ...axis, label: "accuracy (%)", size: 52 },
    ],
    series: [{}, ...curves.map(({ curve, i }) => ({ stroke: colourOf(i), width: 1.6, dash: dashOf(curve, i), spanGaps: true, points: { show: false } }))],
    hooks: { draw: [(u) => drawPoints(u, curves)], setCursor: [(u) => showNearest(u, curves)] },
  }, columns, byId("chart"));
}

function drawLegend() {
  byId("legend").replaceChildren(...ownCurves().map((curve, i) => {
    const box = make("input", { type: "checkbox", onchange: () => { off.set(keyOf(curve), !box.checked); drawChart(); } });
    box.checked = !isOff(curve, i);
    const sign = make("canvas", { width: 52, height: 24, "aria-hidden": "true" });
    const context = sign.getContext("2d");
    context.strokeStyle = context.fillStyle = colourOf(i);
    context.lineWidth = 3;
    context.setLineDash(dashOf(curve, i).map((d) => 2 * d));
    context.stroke(new Path2D("M2 12 H50"));
    drawShape(context, i, 26, 12, 8);
    return make("label", {}, box, sign, make("span", {}, curve.name));
  }));
}

function drawCurves() {
  byId("curves-section").hidden = !data.curves.some((curve) => curve.benchmark === state.benchmark);
  drawLegend();
  drawChart();
}

byId("axis").addEventListener("change", drawCurves);
let resizing = 0;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawChart, 100); });
