// What was predicted at the end, beside what was true: confusion, ROC and precision-recall, scatter and residuals.

const BOX = { width: 300, height: 240, left: 54, right: 10, top: 8, bottom: 36 };

// Round numbers inside low … high, five or so.
const roundTicks = (low, high) => {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((k) => k * power >= rough) ?? 10), first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step - first + 1e-9) + 1 }, (_, i) => (first + i) * step);
};

// The range of values with a margin; wider than a point.
const rangeOf = (values) => {
  const low = Math.min(...values), high = Math.max(...values), pad = (high - low) * 0.04 || Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
};

// A plot of lines and points; x, y: {label, range}. level: [[x, y], [x, y]], what predictions without knowledge, or
// without error, would show. lines: {points, color}; points: {x, y, color, text}.
const plot = (name, { x, y, level, lines = [], points = [] }) => {
  const { width, height, left, right, top, bottom } = BOX;
  const across = (v) => left + (v - x.range[0]) / (x.range[1] - x.range[0]) * (width - left - right);
  const up = (v) => height - bottom - (v - y.range[0]) / (y.range[1] - y.range[0]) * (height - top - bottom);
  const path = (pairs) => pairs.map(([a, b], i) => `${i ? "L" : "M"}${across(a).toFixed(1)} ${up(b).toFixed(1)}`).join("");
  const text = (at, content) => shape("text", at, content);
  return h("figure", { class: "plotted" }, h("figcaption", {}, name),
    shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name },
      roundTicks(...x.range).map((v) => [shape("path", { class: "grid", d: `M${across(v)} ${top}V${height - bottom}` }),
        text({ x: across(v), y: height - bottom + 14, "text-anchor": "middle" }, num(v, 3))]),
      roundTicks(...y.range).map((v) => [shape("path", { class: "grid", d: `M${left} ${up(v)}H${width - right}` }),
        text({ x: left - 5, y: up(v) + 4, "text-anchor": "end" }, num(v, 3))]),
      text({ x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, x.label),
      text({ transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label),
      level ? shape("path", { class: "level", d: path(level) }) : null,
      lines.map((line) => shape("path", { class: "curve", d: path(line.points), stroke: line.color })),
      points.map((point) => shape("circle", { cx: across(point.x).toFixed(1), cy: up(point.y).toFixed(1), r: point.r ?? 2, fill: point.color },
        shape("title", {}, point.text)))));
};

const colorOf = (i) => PALETTE[i % PALETTE.length];

// names: [[colour, name], …]; nothing for one alone.
const colorKey = (names) => names.length < 2 ? null : h("p", { class: "key" },
  names.map(([color, name]) => h("span", {}, h("i", { class: "dot", style: `--swatch:${color}` }), name)));

// --- classes and 0/1 outputs ---

const matrix = (name, { counts }, labels) => h("figure", { class: "plotted" }, h("figcaption", {}, name),
  scrolling(h("div", { class: "scroll", tabindex: "0" }, h("table", { class: "confusion" },
    h("thead", {}, h("tr", {}, h("th", {}, "true \u2193 predicted \u2192"), labels.map((label) => h("th", { scope: "col" }, label)))),
    h("tbody", {}, counts.map((row, i) => {
      const all = row.reduce((sum, n) => sum + n, 0);
      return h("tr", {}, h("th", { scope: "row" }, labels[i]), row.map((n, j) => h("td", {
        title: all ? `${pct(n / all)} of those that are ${labels[i]}` : null,
        style: `background: rgb(var(--${i === j ? "along" : "against"}) / ${all ? (0.6 * n / all).toFixed(3) : 0})`,
      }, whole(n))));
    }))))));

const confused = (pairs, labels) => h("figure", { class: "plotted" }, h("figcaption", {}, "most often confused"),
  table(["true", "predicted", "elements"], pairs.map((pair) => [labels[pair.true] ?? pair.true, labels[pair.predicted] ?? pair.predicted, whole(pair.count)])));

const curvePlots = (curves, nameOf) => {
  const share = [-0.02, 1.02];
  const made = (pairs) => curves.map((curve, i) => ({ color: colorOf(i), points: pairs(curve) }));
  const dots = (x, y) => curves.flatMap((curve, i) => curve.thresholds.map((at, j) => ({
    x: x(curve, j), y: y(curve, j), r: 1.5, color: colorOf(i),
    text: `${nameOf(curve.output)}: from a probability of ${num(at, 3)} on ${whole(curve.true[j])} of ${whole(curve.ones)} are found, and ${whole(curve.false[j])} of ${whole(curve.zeros)} are wrong`,
  })));
  const [found, wrong] = [(curve, j) => curve.true[j] / curve.ones, (curve, j) => curve.false[j] / curve.zeros];
  const right = (curve, j) => curve.true[j] / (curve.true[j] + curve.false[j]);
  const along = (x, y) => (curve) => curve.thresholds.map((_, j) => [x(curve, j), y(curve, j)]);
  const [only] = curves, base = only.ones / (only.ones + only.zeros);
  return [
    plot("ROC", { x: { label: "share of the others taken for it", range: share }, y: { label: "share found", range: share },
      level: [[0, 0], [1, 1]], lines: made((curve) => [[0, 0], ...along(wrong, found)(curve)]), points: dots(wrong, found) }),
    plot("precision and recall", { x: { label: "recall: share found", range: share }, y: { label: "precision: share right", range: share },
      level: curves.length === 1 ? [[0, base], [1, base]] : null, lines: made(along(found, right)), points: dots(found, right) }),
    colorKey(curves.map((curve, i) => [colorOf(i), nameOf(curve.output)])),
  ];
};

// --- numbers ---

const scatterPlots = ({ true: actual, predicted, outputs }, unit) => {
  const both = rangeOf([...actual, ...predicted]), of = unit ? `, ${unit}` : "";
  const errors = actual.map((value, i) => predicted[i] - value), each = [...new Set(outputs)].sort((a, b) => a - b);
  const points = (x, y) => actual.map((value, i) => ({ x: x[i], y: y[i], color: colorOf(outputs[i]),
    text: `${each.length > 1 ? `output ${outputs[i]}: ` : ""}true ${num(value)}, predicted ${num(predicted[i])}${unit ? ` ${unit}` : ""}` }));
  return [
    plot("predicted against true", { x: { label: `true${of}`, range: both }, y: { label: `predicted${of}`, range: both },
      level: [[both[0], both[0]], [both[1], both[1]]], points: points(actual, predicted) }),
    plot("residuals", { x: { label: `predicted${of}`, range: rangeOf(predicted) }, y: { label: `predicted \u2212 true${of}`, range: rangeOf([0, ...errors]) },
      level: rangeOf(predicted).map((v) => [v, 0]), points: points(predicted, errors) }),
    each.length > PALETTE.length ? null : colorKey(each.map((k) => [colorOf(k), `output ${k}`])),
  ];
};

// --- all of them ---

const plotsOf = (run, event) => {
  const { classes = [], outputs, unit } = run.tasks[event.task] ?? {};
  const ofClasses = event.confusion.some((each) => each.output === undefined) || event.confused.length > 0;
  const nameOf = (k) => ofClasses ? classes[k] ?? `class ${k}` : outputs > 1 ? `output ${k}` : classes[1] ?? "ones";
  const labels = (each) => each.counts.map((_, k) => classes[k] ?? String(k));
  const parts = [
    ...event.confusion.map((each) => matrix(each.output === undefined || outputs < 2 ? "confusion" : `output ${each.output}`, each, labels(each))),
    event.confused.length ? confused(event.confused, classes) : null,
    event.curves.length ? curvePlots(event.curves, nameOf) : null,
    event.sample?.true.length ? scatterPlots(event.sample, unit) : null,
  ].flat(2).filter(Boolean);
  return h("div", { class: "of-split", "data-task": event.task, "data-split": event.split },
    h("p", { class: "note" }, dot(run), `${SINGLE ? "" : `${run.label}: `}${event.split} split, ${whole(event.labels)} labels`),
    parts.length ? h("div", { class: "plots" }, parts) : h("p", { class: "note" }, "nothing to plot"));
};

const predictions = () => {
  const tasks = TASKS.map((name) => [name, RUNS.flatMap((run) => run.predictions.filter((each) => each.task === name).map((each) => plotsOf(run, each)))])
    .filter(([, plots]) => plots.length);
  return tasks.length ? section("predictions", "Predictions at the end", tasks.map(([name, plots]) => h("div", {}, h("h3", {}, name), plots))) : null;
};
