// The page: its charts and all sections in their order, made from the data inside it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs, SINGLE = RUNS.length === 1;

RUNS.forEach((run, i) => {
  run.color = colour(i, RUNS.length);
  run.last_step = run.steps.last || run.attempts.at(-1)?.steps || 1;
  run.origin = run.attempts.find((attempt) => attempt.origin)?.origin ?? null;
  run.first_step = run.origin?.kind === "extends" && run.steps.last > run.origin.step ? run.origin.step : 0;
});
if (RUNS.every((run) => (run.last_epoch?.epoch ?? 0) < 2)) settings.axis = "steps";
const TASKS = [...new Set(RUNS.flatMap((run) => Object.keys(run.tasks)))];
const taskColour = Object.fromEntries(TASKS.map((name, i) => [name, colour(i, TASKS.length)]));

const dot = (run) => SINGLE ? null : h("i", { class: "dot", style: `--swatch:${run.color}` });
const section = (id, title, ...content) =>
  h("section", { id }, h("h2", {}, title), ...content);
const caption = (title, note, unit) =>
  h("figcaption", {}, h("h3", {}, title), h("p", {}, note), h("div", { class: "unit" }, h("small", {}, unit), showAll()));

// --- curves ---

const atSteps = (run) => {
  const { width, last } = run.steps;
  return Array.from({ length: Math.ceil(last / width) }, (_, i) => (i * width + 1 + Math.min(last, (i + 1) * width)) / 2);
};
const atEpochs = (run) => {
  const { width } = run.epochs, last = run.last_epoch?.epoch ?? 0;
  return Array.from({ length: Math.ceil(last / width) }, (_, i) =>
    run.per_epoch * (i * width + 1 + Math.min(last, (i + 1) * width)) / 2);
};
const formatAt = ({ mean, low, high }, form) => (i) =>
  low && low[i] !== high[i] ? `${form(mean[i])} (${form(low[i])} to ${form(high[i])})` : form(mean[i]);
const curve = (run, xs, values, form, more) => ({
  run, xs, text: formatAt(values, form), ys: values.mean, low: values.low, high: values.high, ...more });

// Curves of one run have a colour for each split; of several runs each has a colour, and validation is dashed.
const lossEntries = (run, name) => {
  const steps = run.steps.tasks[name], epochs = run.epochs.tasks[name], entries = [];
  const label = (text) => SINGLE ? text : `${run.label} ${text}`, color = SINGLE ? PALETTE[0] : run.color;
  if (steps) {
    const of = steps.loss_original, grey = SINGLE ? PALETTE[7] : color;
    entries.push(curve(run, run.at_steps, of, num,
      { label: label("each step"), color: of.low ? grey : faded(grey, 0.55), width: of.low ? 1 : 0.75, off: !SINGLE, by: "step" }));
  }
  if (epochs) {
    entries.push(curve(run, run.at_epochs, epochs.train_loss_original, num, { label: label("training"), color, by: "epoch" }));
    entries.push(curve(run, run.at_epochs, epochs.val_loss_original, num,
      { label: label("validation"), color: SINGLE ? PALETTE[1] : color, dash: SINGLE ? undefined : [5, 4], by: "epoch" }));
  }
  return entries;
};

// The trivial predictions; runs with the same data share a line.
const trivialEntries = (runs, name) => {
  const lines = new Map();
  for (const run of runs) {
    const { baseline_constant: constant, baseline_per_position: position } = run.tasks[name];
    for (const [text, flat, dash] of [["best constant", constant, [2, 3]], ["best constant per position", position, [6, 3]]]) {
      if (flat !== null && flat !== undefined) lines.set(`${text} ${flat}`, { run, flat, label: text, width: 1.25, color: "#888888", dash });
    }
  }
  return [...lines.values()];
};

const marksFor = (run, name) => ({ run, marks: { ...run.marks,
  alarms: run.marks.alarms.filter((alarm) => !name || !alarm.task || alarm.task === name) } });

const lossChart = (name) => {
  const mine = RUNS.filter((run) => run.tasks[name]), [{ tasks, titles }] = mine;
  const title = SINGLE ? titles.tasks[name].title : name;
  const note = SINGLE ? titles.tasks[name].note
    : mine.map((run) => h("span", { class: "line" }, dot(run), run.titles.tasks[name].title.replace(`${name}: `, "")));
  return new Chart({
    caption: caption(title, note, `loss${tasks[name].loss_unit ? ` in ${tasks[name].loss_unit}` : ""}`), label: title, kind: "loss",
    entries: [...mine.flatMap((run) => lossEntries(run, name)), ...trivialEntries(mine, name)]
      .sort((a, b) => Boolean(a.off) - Boolean(b.off)),
    marks: mine.map((run) => marksFor(run, name)),
    log: () => settings.loss === "log",
  });
};

const shareEntries = (run, field, form) => Object.entries(run.steps.tasks).map(([name, values]) => {
  const of = values[field];
  return curve(run, run.at_steps, of, form, { label: name, color: taskColour[name], by: "step" });
});

const named = (run, text) => SINGLE ? text : [dot(run), `${run.label}: ${text}`];

const shareChart = (run) => {
  const entries = shareEntries(run, "grad_share", (v) => pct(v, 1));
  for (const entry of entries) {
    const { low, high } = run.steps.tasks[entry.label].grad_share;
    Object.defineProperties(entry, Object.fromEntries(Object.entries({ low, high }).map(([key, value]) =>
      [key, { get: () => settings.shares === "stacked" ? undefined : value }])));
  }
  const count = entries.length, even = 1 / count;
  entries.push({ run, flat: even, label: "even share", color: "#888888", width: 1.25, dash: [2, 3], text: () => pct(even, 1) });
  return new Chart({
    caption: caption(named(run, run.titles.shares), count > 1 ? `an even share is ${pct(even, 1)}` : "", "share of the gradient at z"), label: `${run.label}: gradient shares`,
    kind: "shares", wide: SINGLE, percent: true, height: 260, entries, marks: [marksFor(run)],
    stacked: () => settings.shares === "stacked",
  });
};

const weightChart = (run) => new Chart({
  caption: caption(named(run, run.titles.weights), "", "weight, log"), label: `${run.label}: weights`,
  wide: SINGLE, height: 220, log: () => true, marks: [marksFor(run)],
  entries: Object.entries(run.steps.tasks).map(([name, values]) =>
    curve(run, run.at_steps, values.weight, num, { label: name, color: taskColour[name], width: 1.5, by: "step" })),
});

const cosineCharts = (run) => {
  const title = caption(named(run, run.titles.cosines), "", "cosine of two tasks\u2019 gradients at z, mean of an epoch");
  const heat = run.cosines ? new Heatmap(run, title).element : h("figure", { class: "wide" }, title);
  if (!run.steps.last || Object.keys(run.tasks).length < 2) return [heat];
  const lowest = new Chart({
    caption: caption(named(run, "the lowest cosine of any two tasks at each step"), "", "cosine at z"), wide: SINGLE, height: 140,
    label: `${run.label}: lowest cosine`, marks: [marksFor(run)],
    entries: [curve(run, run.at_steps, run.steps.cosine_min, (v) => num(v, 3), { label: "lowest", color: PALETTE[3], width: 1, by: "step" })],
  });
  return [heat, lowest.element];
};

// --- the whole ---

const paint = () => {
  const wanted = settings.printing ? "light" : settings.theme ?? "auto";
  const dark = wanted === "dark" || (wanted === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  redraw();
  for (const each of HEATMAPS) each.draw();
};

const build = () => {
  for (const run of RUNS) {
    run.at_steps = atSteps(run);
    run.at_epochs = atEpochs(run);
  }
  const trained = RUNS.filter((run) => run.steps.last);
  const loss = TASKS.filter((name) => RUNS.some((run) => run.steps.tasks[name] || run.epochs.tasks[name])).map(lossChart);
  const each = (make) => h("div", { class: "charts" }, trained.flatMap(make));
  const bar = h("div", { class: "bar" },
    choice("scale", "loss", ["linear", "log"], settings.loss, (value) => { settings.loss = value; redraw((chart) => chart.kind === "loss"); }),
    choice("axis", "axis", ["epochs", "steps"], settings.axis, (value) => { settings.axis = value; zoomTo(null); redraw(); }),
    choice("smooth", "smooth steps", Object.keys(SMOOTH), settings.smooth, (value) => { settings.smooth = value; redraw(); }),
    h("p", { class: "key" }, KEY.map(([name, text]) => h("span", {}, h("i", { class: `mark ${name}` }), text))),
    h("p", { class: "hint" }, h("span", { class: "by-mouse" }, "Drag over a chart to zoom, double-click to see all."),
      h("span", { class: "by-touch" }, "Spread two fingers on a chart to zoom; one reads values.")));
  const stacked = choice("shares", "shares", ["stacked", "lines"], settings.shares,
    (value) => { settings.shares = value; redraw((chart) => chart.kind === "shares"); });
  document.getElementById("page").replaceChildren(...[
    header(), gates(), differences(), outcome(), tested(), evaluated(), metrics(),
    loss.length ? section("loss", "Loss by task", bar, h("div", { class: "charts" }, loss.map((chart) => chart.element))) : null,
    trained.length ? h("section", { id: "gradients" }, h("div", { class: "head" }, h("h2", {}, "Shares of the gradient"), stacked),
      h("p", { class: "note" }, "z is the shared representation: what the trunk makes of a sample, from which every head reads. A task\u2019s share is its weight times the norm of its gradient at z, of the sum over all tasks. A task far below the even share, which is 1 / the number of tasks, hardly moves the trunk; an even share is no aim in itself."),
      each((run) => shareChart(run).element)) : null,
    trained.length ? section("weights", "Weights", each((run) => weightChart(run).element)) : null,
    trained.length ? section("cosines", "Do the tasks agree?", each(cosineCharts)) : null,
    predictions(),
    section("history", "What happened", RUNS.map(history)),
    facts(), specs(),
    h("footer", {}, `evengrad ${DATA.version}, made ${utcTime(DATA.made)}.`),
  ].filter(Boolean));
  paint();
};

build();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
let resizing;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(paint, 100); });
const printing = (on) => () => {
  settings.printing = on;
  document.documentElement.classList.toggle("printing", on);
  for (const each of document.querySelectorAll("details")) {
    if (on) each.dataset.open = each.open;
    each.open = on || each.dataset.open === "true";
  }
  paint();
};
addEventListener("beforeprint", printing(true));
addEventListener("afterprint", printing(false));
document.documentElement.dataset.ready = performance.now().toFixed();
