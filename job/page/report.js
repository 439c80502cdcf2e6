// The page: its sections, from the data inside it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs, SINGLE = RUNS.length === 1;

RUNS.forEach((run, i) => {
  run.color = colour(i, RUNS.length);
  run.last_step = run.steps.last || run.attempts.at(-1)?.steps || 1;
});
if (RUNS.every((run) => (run.last_epoch?.epoch ?? 0) < 2)) settings.axis = "steps";
const TASKS = [...new Set(RUNS.flatMap((run) => Object.keys(run.tasks)))];
const taskColour = Object.fromEntries(TASKS.map((name, i) => [name, colour(i, TASKS.length)]));

const dot = (run) => SINGLE ? null : h("i", { class: "dot", style: `--swatch:${run.color}` });
const section = (id, title, ...content) =>
  h("section", { id }, h("h2", {}, title), ...content);
const caption = (title, note, unit) =>
  h("figcaption", {}, h("h3", {}, title), h("p", {}, note), h("small", {}, unit));

// --- verdict ---

const header = () => {
  const passed = RUNS.every((run) => run.words.passed);
  const done = RUNS.every((run) => run.finished);
  const state = passed ? "passed" : done ? "failed" : "open";
  const [run] = RUNS;
  return h("header", { class: SINGLE ? state : "" },
    h("p", { class: "kicker" }, "evengrad report", h("span", {}, themes())),
    h("h1", {}, SINGLE ? run.run : `${RUNS.length} runs side by side`),
    SINGLE ? h("p", { class: `verdict ${state}` }, run.words.verdict)
      : h("ul", { class: "verdicts" }, RUNS.map((each) =>
        h("li", {}, dot(each), h("b", {}, each.run), h("span", {
          class: `verdict ${each.words.passed ? "passed" : each.finished ? "failed" : "open"}` }, each.words.verdict)))),
    SINGLE ? h("p", { class: "lead" }, [
      run.last_epoch ? `${run.last_epoch.epoch} epochs` : null, run.steps.last ? `${whole(run.steps.last)} steps` : null,
      run.finished ? `${lasting(run.finished.seconds)} of training` : null, run.attempts.at(-1)?.device,
      run.pods.length ? money(run) : null, run.begun ? `begun ${moment(run.begun)}` : null,
    ].filter(Boolean).join(" \u00b7 ")) : null);
};

const themes = () => choice("theme", "theme", ["auto", "light", "dark"], "auto", (value) => {
  settings.theme = value;
  paint();
});

const money = (run) => `${run.pods.reduce((sum, pod) => sum + pod.usd, 0).toFixed(2)}${NBSP}USD`;

const verdictOf = (gate) => {
  if (!gate) return NONE;
  const value = gate.measured === null || gate.measured === undefined ? "not measured"
    : gate.unit === "share" ? pct(gate.measured) : num(gate.measured);
  return h("span", { class: gate.passed ? "good" : "bad" }, `${value} `, h("em", {}, gate.passed ? "passed" : "failed"));
};

const gates = () => {
  const all = RUNS.map((run) => Object.fromEntries((run.finished?.gates ?? []).map((gate) => [gate.gate, gate])));
  const names = [...new Set(all.flatMap(Object.keys))];
  if (!names.length) return null;
  const head = ["gate", ...RUNS.map((run) => SINGLE ? "measured" : [dot(run), run.label])];
  return section("gates", "Gates", table(head, names.map((name) => [name, ...all.map((of) => verdictOf(of[name]))])));
};

const differences = () => {
  if (SINGLE) return null;
  const value = (v) => h("code", {}, v === null ? NONE : JSON.stringify(v));
  const rows = DATA.differences.map(({ where, values }) => [h("code", {}, where.replace("$.", "")), ...values.map(value)]);
  return section("differences", "Where the specs differ", rows.length
    ? table(["spec", ...RUNS.map((run) => [dot(run), run.label])], rows) : h("p", {}, "Nowhere: the specs are the same."));
};

const outcome = () => {
  const told = RUNS.filter((run) => run.last_epoch);
  if (!told.length) return null;
  const columns = ["loss", "trivial", "skill", "drop", "val. loss", "val. skill", "share", "weight", "saturated"];
  const rows = TASKS.flatMap((name) => told.filter((run) => run.last_epoch.tasks[name]).map((run) => {
    const task = run.last_epoch.tasks[name], { loss_unit: unit, ...facts } = run.tasks[name];
    const trivial = [facts.baseline_constant, facts.baseline_per_position].filter((v) => v != null);
    const cells = [num(task.train_loss_original), trivial.length ? num(Math.min(...trivial)) : NONE, signed(task.skill),
      pct(task.drop), num(task.val_loss_original), signed(task.val_skill), pct(task.grad_share), num(task.weight), pct(task.saturated)];
    return [[dot(run), name, unit ? h("small", {}, ` ${unit}`) : null], ...cells];
  }));
  const when = SINGLE ? `After epoch ${told[0].last_epoch.epoch}` : "After the last epoch";
  return section("outcome", when, h("p", { class: "note" },
    "Losses in original units. Skill is 1 \u2212 loss / that of the best trivial prediction; drop is the share lost since epoch 1."),
    table(["task", ...columns], rows));
};
const signed = (value) => h("span", { class: value < 0 ? "bad" : "" }, pct(value));

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
const span = (values, form) => (i) =>
  values.low ? `${form(values.low[i])} to ${form(values.high[i])}` : form(values.mean[i]);
const curve = (run, xs, values, form, more) => ({
  run, xs, text: span(values, form), ...(values.low ? { low: values.low, high: values.high } : { ys: values.mean }), ...more });

// Of one run its splits have colours; of several each run has one, and validation is dashed.
const lossEntries = (run, name) => {
  const steps = run.steps.tasks[name], epochs = run.epochs.tasks[name], entries = [];
  const label = (text) => SINGLE ? text : `${run.label} ${text}`, color = SINGLE ? PALETTE[0] : run.color;
  if (steps) {
    const of = steps.loss_original, grey = SINGLE ? PALETTE[7] : color;
    entries.push(curve(run, run.at_steps, of, num,
      { label: label("each step"), color: of.low ? grey : faded(grey, 0.55), width: 0.75, off: !SINGLE }));
  }
  if (epochs) {
    entries.push(curve(run, run.at_epochs, epochs.train_loss_original, num, { label: label("training"), color }));
    entries.push(curve(run, run.at_epochs, epochs.val_loss_original, num,
      { label: label("validation"), color: SINGLE ? PALETTE[1] : color, dash: SINGLE ? undefined : [5, 4] }));
  }
  return entries;
};

// The trivial predictions; one line for all runs whose data are the same.
const trivialEntries = (runs, name) => {
  const found = new Map();
  for (const run of runs) {
    const { baseline_constant: constant, baseline_per_position: position } = run.tasks[name];
    for (const [text, flat, dash] of [["best constant", constant, [2, 3]], ["best per position", position, [6, 3]]]) {
      if (flat !== null && flat !== undefined) found.set(`${text} ${flat}`, { run, flat, label: text, width: 1.25, color: "#888888", dash });
    }
  }
  return [...found.values()];
};

const marksFor = (run, name) => ({ run, marks: { ...run.marks,
  alarms: run.marks.alarms.filter((alarm) => !name || !alarm.task || alarm.task === name) } });

const lossChart = (name) => {
  const mine = RUNS.filter((run) => run.tasks[name]), [{ tasks, words }] = mine;
  const title = SINGLE ? words.tasks[name].title : name;
  const note = SINGLE ? words.tasks[name].note
    : mine.map((run) => h("span", { class: "line" }, dot(run), run.words.tasks[name].title.replace(`${name}: `, "")));
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
  return { run, xs: run.at_steps, ys: of.mean, label: name, color: taskColour[name],
    text: (i) => of.low ? `${form(of.mean[i])} (${form(of.low[i])} to ${form(of.high[i])})` : form(of.mean[i]) };
});

const named = (run, text) => SINGLE ? text : [dot(run), `${run.label}: ${text}`];

const shareChart = (run) => {
  const entries = shareEntries(run, "grad_share", (v) => pct(v, 1));
  for (const entry of entries) {
    const { low, high } = run.steps.tasks[entry.label].grad_share;
    Object.defineProperties(entry, Object.fromEntries(Object.entries({ low, high }).map(([key, value]) =>
      [key, { get: () => settings.shares === "stacked" ? undefined : value }])));
  }
  return new Chart({
    caption: caption(named(run, run.words.shares), "", "share of the gradient at z"), label: `${run.label}: gradient shares`,
    kind: "shares", wide: SINGLE, percent: true, height: 260, entries, marks: [marksFor(run)],
    stacked: () => settings.shares === "stacked",
  });
};

const weightChart = (run) => new Chart({
  caption: caption(named(run, run.words.weights), "", "weight, log"), label: `${run.label}: weights`,
  wide: SINGLE, height: 220, log: () => true, marks: [marksFor(run)],
  entries: Object.entries(run.steps.tasks).map(([name, values]) =>
    curve(run, run.at_steps, values.weight, num, { label: name, color: taskColour[name], width: 1.5 })),
});

const cosineCharts = (run) => {
  const title = caption(named(run, run.words.cosines), "", "cosine of two tasks\u2019 gradients at z, mean of an epoch");
  const heat = run.cosines ? new Heatmap(run, title).element : h("figure", { class: "wide" }, title);
  if (!run.steps.last || Object.keys(run.tasks).length < 2) return [heat];
  const lowest = new Chart({
    caption: caption(named(run, "the lowest cosine of any two tasks, step by step"), "", "cosine at z"), wide: SINGLE, height: 140,
    label: `${run.label}: lowest cosine`, marks: [marksFor(run)],
    entries: [curve(run, run.at_steps, run.steps.cosine_min, (v) => num(v, 3), { label: "lowest", color: PALETTE[3], width: 1 })],
  });
  return [heat, lowest.element];
};

// --- what happened, the spec, the facts ---

const KEY = [["alarm", "alarm"], ["checkpoint", "checkpoint"], ["resume", "resume"], ["undone", "superseded steps"]];

const history = (run) => {
  const { alarms, superseded, resumes, broken } = run.marks, rows = [];
  const at = (step) => `${whole(step)} (epoch ${(step / run.per_epoch).toFixed(1)})`;
  for (const alarm of alarms) rows.push([alarm.step, alarm.kind.replaceAll("_", " "), alarm.message]);
  for (const step of resumes) rows.push([step, "resume", `went on after step ${whole(step)}`]);
  for (const [from, to] of superseded) {
    const what = to > from ? `steps ${whole(from + 1)} to ${whole(to)} were undone and taken again` : "no step was undone";
    rows.push([from, "superseded", what]);
  }
  for (const [task, step] of Object.entries(broken)) rows.push([step, "not finite", `the loss of ${task}`]);
  rows.sort((a, b) => a[0] - b[0]);
  return h("div", {}, h("h3", {}, named(run, run.words.marks)),
    rows.length ? table(["step", "what", "told"], rows.map(([step, ...cells]) => [at(step), ...cells]), { class: "told" }) : null);
};

const facts = () => {
  const rows = {
    "device": (run) => [...new Set(run.attempts.map((a) => a.device))].join("; "),
    "CPU threads": (run) => run.attempts.at(-1)?.threads,
    "evengrad": (run) => [...new Set(run.attempts.map((a) => a.version))].join(", "),
    "torch": (run) => [...new Set(run.attempts.map((a) => a.torch))].join(", "),
    "parameters": (run) => run.attempts.length ? whole(run.attempts.at(-1).parameters) : null,
    "samples": (run) => Object.entries(run.attempts.at(-1)?.samples ?? {}).map(([k, n]) => `${whole(n)} ${k}`).join(", "),
    "sample": (run) => run.attempts.at(-1)?.features.join(" \u00d7 "),
    "left out": (run) => Object.entries(run.attempts.at(-1)?.skipped ?? {}).map(([k, n]) => `${whole(n)} ${k}`).join(", "),
    "steps": (run) => `${whole(run.steps.last)} of ${whole(run.attempts.at(-1)?.steps ?? 0)} planned`,
    "throughput": (run) => run.last_epoch ? `${num(run.last_epoch.samples_per_second, 3)} samples/s` : null,
    "training time": (run) => run.finished ? lasting(run.finished.seconds) : null,
    "begun": (run) => moment(run.begun),
    "last told": (run) => moment(run.ended),
    "spec": (run) => run.attempts.at(-1)?.spec_hash.slice(0, 12),
    "rented": (run) => run.pods.map((pod) =>
      h("span", { class: "line" }, `${pod.gpu}, ${pod.cloud.toLowerCase()}: ${lasting(pod.hours * 3600)} at ${pod.per_hour} USD/h`)),
    "cost": (run) => run.pods.length ? money(run) : "not rented",
  };
  const shown = Object.entries(rows).map(([name, of]) => [name, ...RUNS.map((run) => of(run) || NONE)])
    .filter((row) => row.slice(1).some((cell) => cell !== NONE && String(cell) !== ""));
  return section("facts", "Hardware, versions, cost", table(["", ...RUNS.map((run) => SINGLE ? "" : [dot(run), run.label])], shown, { class: "facts" }));
};

const specs = () => section("spec", SINGLE ? "The spec" : "The specs", RUNS.map((run) =>
  h("details", {}, h("summary", {}, named(run, run.run)),
    h("pre", { tabindex: "0" }, run.spec === null ? "not in the store" : JSON.stringify(run.spec, null, 2)))));

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
    choice("axis", "axis", ["epochs", "steps"], settings.axis, (value) => { settings.axis = value; for (const chart of CHARTS) chart.zoom = null; redraw(); }),
    h("p", { class: "key" }, KEY.map(([name, text]) => h("span", {}, h("i", { class: `mark ${name}` }), text))));
  const stacked = choice("shares", "shares", ["stacked", "lines"], settings.shares,
    (value) => { settings.shares = value; redraw((chart) => chart.kind === "shares"); });
  document.getElementById("page").replaceChildren(...[
    header(), gates(), differences(), outcome(),
    loss.length ? section("loss", "Loss by task", bar, h("div", { class: "charts" }, loss.map((chart) => chart.element))) : null,
    trained.length ? h("section", { id: "gradients" }, h("div", { class: "head" }, h("h2", {}, "Shares of the gradient"), stacked),
      each((run) => shareChart(run).element)) : null,
    trained.length ? section("weights", "Weights", each((run) => weightChart(run).element)) : null,
    trained.length ? section("cosines", "Do the tasks agree?", each(cosineCharts)) : null,
    section("history", "What happened", RUNS.map(history)),
    facts(), specs(),
    h("footer", {}, `evengrad ${DATA.version}, made ${moment(DATA.made)}. Drag over a chart to zoom, double-click to see all again.`),
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
  for (const each of document.querySelectorAll("details")) each.open = on || each.dataset.open === "true";
  paint();
};
addEventListener("beforeprint", printing(true));
addEventListener("afterprint", printing(false));
document.documentElement.dataset.ready = performance.now().toFixed();
