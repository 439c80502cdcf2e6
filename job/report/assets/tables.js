// The page's text and tables: verdict, gates, differences, what happened, facts.

// --- verdict ---

const header = () => {
  const passed = RUNS.every((run) => run.titles.passed);
  const done = RUNS.every((run) => run.finished);
  const state = passed ? "passed" : done ? "failed" : "open";
  const [run] = RUNS;
  return h("header", { class: SINGLE ? state : "" },
    h("p", { class: "kicker" }, "evengrad report", h("span", {}, themes())),
    h("h1", {}, SINGLE ? run.run : `${RUNS.length} runs side by side`),
    SINGLE ? h("p", { class: `verdict ${state}` }, run.titles.verdict)
      : h("ul", { class: "verdicts" }, RUNS.map((each) =>
        h("li", {}, dot(each), h("b", {}, each.run), h("span", {
          class: `verdict ${each.titles.passed ? "passed" : each.finished ? "failed" : "open"}` }, each.titles.verdict)))),
    SINGLE ? run.titles.worth.map((line) => h("p", { class: "worth" }, line)) : null,
    SINGLE ? h("p", { class: "lead" }, [
      run.last_epoch ? `${run.last_epoch.epoch} epochs` : null, run.steps.last ? `${whole(run.steps.last)} steps` : null,
      run.finished ? `${duration(run.finished.seconds)} of training` : null, run.attempts.at(-1)?.device,
      run.pods.length ? money(run) : null, run.begun ? `started ${utcTime(run.begun)}` : null,
    ].filter(Boolean).join(" \u00b7 ")) : null,
    SINGLE ? about(run) : null);
};

// What people have written about a run, and the run that it began with.
const about = (run) => [
  run.spec?.label ? h("p", { class: "lead" }, h("b", {}, run.spec.label)) : null,
  run.spec?.notes ? h("p", { class: "lead written" }, run.spec.notes) : null,
  run.origin ? h("p", { class: "lead", id: "origin" }, originOf(run.origin)) : null,
];
const originOf = ({ kind, run, step, epoch, sha256, averaged, schedule, changed }) => [
  kind === "extends" ? `Goes on with run ${run} after epoch ${epoch}, step ${whole(step)}; its earlier epochs are in that run\u2019s report. `
    : `Began with ${averaged ? "the averaged network" : "the network"} of run ${run} at step ${whole(step)}, epoch ${epoch}. `,
  schedule ? `${schedule[0].toUpperCase()}${schedule.slice(1)}. ` : null,
  changed?.length ? `Changed: ${changed.join("; ")}. ` : null,
  h("span", {}, "Checkpoint ", h("code", {}, sha256.slice(0, 12)), "."),
];

const themes = () => choice("theme", "theme", ["auto", "light", "dark"], "auto", (value) => {
  settings.theme = value;
  paint();
});

const money = (run) => `${run.pods.reduce((sum, pod) => sum + pod.usd, 0).toFixed(2)}${NBSP}USD`;

const verdictOf = (gate) => {
  if (!gate) return NONE;
  if (gate.passed === undefined) return h("span", { class: "open" }, "not read yet");
  const value = gate.measured === null || gate.measured === undefined ? "not measured"
    : gate.unit !== "share" ? num(gate.measured) : around(gate.measured, gate.error)
      + (gate.trivial === undefined ? "" : ` (${pct(gate.trivial)} trivial)`);
  return h("span", { class: gate.passed ? "good" : "bad" }, `${value} `, h("em", {}, gate.passed ? "passed" : "failed"));
};

const gates = () => {
  const all = RUNS.map((run) => Object.fromEntries(run.gates.map((gate) => [gate.gate, gate])));
  const names = [...new Set(all.flatMap(Object.keys))];
  if (!names.length) return null;
  const head = ["gate", ...RUNS.map((run) => SINGLE ? "measured" : [dot(run), run.label])];
  return section("gates", "Gates", table(head, names.map((name) => [name, ...all.map((of) => verdictOf(of[name]))])));
};

const differences = () => {
  if (SINGLE) return null;
  const value = (v) => {
    const text = v === null ? NONE : Array.isArray(v) ? `[${v.map((each) => JSON.stringify(each)).join(", ")}]` : JSON.stringify(v);
    return text.length > 80 ? h("details", {}, h("summary", {}, h("code", {}, `${text.slice(0, 40)}\u2026`)), h("code", {}, text)) : h("code", {}, text);
  };
  const rows = DATA.differences.map(({ where, values }) => [h("code", {}, where.split(/(?<=\.)/).map((part) => [part, h("wbr")])), ...values.map(value)]);
  return section("differences", "Where the specs differ", rows.length
    ? table(["spec", ...RUNS.map((run) => [dot(run), run.label])], rows) : h("p", {}, "Nowhere: the specs are the same."));
};

const outcome = () => {
  const ended = RUNS.filter((run) => run.last_epoch);  // those with an epoch
  if (!ended.length) return null;
  const columns = ["loss", "trivial loss", "skill", "val. skill", "drop", "trivial drop", "val. loss", "share", "weight", "saturated"];
  const rows = TASKS.flatMap((name) => ended.filter((run) => run.last_epoch.tasks[name]).map((run) => {
    const task = run.last_epoch.tasks[name], { loss_unit: unit, ...facts } = run.tasks[name];
    const trivial = [facts.baseline_constant, facts.baseline_per_position, facts.trivial?.train].filter((v) => v != null);
    const cells = [measured(task.train_loss_original, task.train_loss_error), trivial.length ? num(Math.min(...trivial)) : NONE,
      signed(task.skill, task.skill_error), signed(task.val_skill, task.val_skill_error), pct(task.drop),
      task.drop_trivial === undefined ? NONE : pct(task.drop_trivial), num(task.val_loss_original), pct(task.grad_share),
      num(task.weight), pct(task.saturated)];
    return [h("span", { class: "named" }, dot(run), h("span", {}, name, unit ? h("small", {}, ` ${unit}`) : null)), ...cells];
  }));
  const when = SINGLE ? `After epoch ${ended[0].last_epoch.epoch}` : "After the last epoch";
  return section("outcome", when, h("p", { class: "note" },
    "Losses are in original units. Skill is 1 \u2212 loss / loss of the best trivial prediction; it has its standard error. Drop is how much of the loss of epoch 1 is gone, trivial drop how much of it would be gone with the trivial prediction. Share is the task\u2019s part of the gradient at z, the representation that all tasks share; even would be 1 / the number of tasks. Saturated is the share of training elements at which the loss no longer says how wrong a prediction is: beyond Huber\u2019s delta, or wrong where an activation is flat."),
    table(["task", ...columns], rows));
};

// The test split, which was measured once.
const tested = () => {
  const ended = RUNS.filter((run) => run.test);
  if (!ended.length) return null;
  const rows = TASKS.flatMap((name) => ended.filter((run) => run.test.tasks[name]).map((run) => {
    const task = run.test.tasks[name], unit = run.tasks[name]?.loss_unit;
    return [h("span", { class: "named" }, dot(run), h("span", {}, name, unit ? h("small", {}, ` ${unit}`) : null)),
      num(task.loss_original), num(task.trivial_loss_original), signed(task.skill, task.skill_error)];
  }));
  return section("test", "On the test split", h("p", { class: "note" },
    "Measured once, by the weights that the last epoch has left; nothing was chosen by it. Columns as above."),
    table(["task", "loss", "trivial loss", "skill"], rows));
};

// Every metric of every task: a row each, with the splits of each run.
const metrics = () => {
  const ended = RUNS.filter((run) => run.last_epoch);
  const splits = { training: (run, name) => run.last_epoch.tasks[name]?.metrics, validation: (run, name) => run.last_epoch.tasks[name]?.val_metrics,
    ...(ended.some((run) => run.test) ? { test: (run, name) => run.test?.tasks[name]?.metrics } : {}) };
  const rows = TASKS.flatMap((name) => {
    const names = [...new Set(ended.flatMap((run) => Object.keys(splits.validation(run, name) ?? {})))];
    const unit = (metric) => DATA.metrics_with_unit.includes(metric) && ended.find((run) => run.tasks[name]).tasks[name].unit;
    return names.map((metric) => [name, [metric.replaceAll("_", " "), unit(metric) ? h("small", {}, ` ${unit(metric)}`) : null],
      ...ended.flatMap((run) => Object.values(splits).map((of) => num(of(run, name)?.[metric])))]);
  });
  if (!rows.length) return null;
  const heads = ended.flatMap((run) => Object.keys(splits).map((split) => SINGLE ? split : [dot(run), `${run.label} ${split}`]));
  return section("metrics", "Metrics after the last epoch", table(["task", "metric", ...heads], rows));
};
const around = (value, error) => error === undefined || error === null ? pct(value)
  : `${(100 * value).toFixed(1).replace("-", "\u2212")} \u00b1 ${pct(error)}`;
const measured = (value, error) => error === undefined || error === null ? num(value) : `${num(value)} \u00b1 ${num(error, 2)}`;
const signed = (value, error) => value === undefined ? NONE : h("span", { class: value < 0 ? "bad" : "" }, around(value, error));

// --- what happened, the spec, the facts ---

const KEY = [["alarm", "alarm"], ["checkpoint", "checkpoint"], ["resume", "resume"], ["undone", "superseded steps"]];

const history = (run) => {
  const { alarms, superseded, resumes, broken } = run.marks, rows = [];
  if (run.origin?.kind === "extends") rows.push([run.origin.step, "extends", `goes on with run ${run.origin.run}`]);
  const at = (step) => `${whole(step)} (epoch ${(step / run.per_epoch).toFixed(1)})`;
  for (const alarm of alarms) rows.push([alarm.step, alarm.kind.replaceAll("_", " "), alarm.message]);
  for (const step of resumes) rows.push([step, "resume", `resumed after step ${whole(step)}`]);
  for (const [from, to] of superseded) {
    rows.push([from, "superseded", `steps ${whole(from + 1)} to ${whole(to)} were undone, and taken again`]);
  }
  for (const [task, step] of Object.entries(broken)) rows.push([step, "not finite", `the loss of ${task}`]);
  rows.sort((a, b) => a[0] - b[0]);
  return h("div", {}, h("h3", {}, named(run, run.titles.marks)),
    rows.length ? table(["step", "what", "details"], rows.map(([step, ...cells]) => [at(step), ...cells]), { class: "events" }) : null);
};

const facts = () => {
  const rows = {
    "device": (run) => [...new Set(run.attempts.map((a) => a.device))].join("; "),
    "CPU threads": (run) => run.attempts.at(-1)?.threads,
    "evengrad": (run) => [...new Set(run.attempts.map((a) => a.version))].join(", "),
    "torch": (run) => [...new Set(run.attempts.map((a) => a.torch))].join(", "),
    "parameters": (run) => run.attempts.length ? whole(run.attempts.at(-1).parameters) : null,
    "samples": (run) => Object.entries(run.attempts.at(-1)?.samples ?? {}).map(([k, n]) => `${whole(n)} ${k}`).join(", "),
    "evaluated": (run) => run.attempts.at(-1)?.evaluated ? `${whole(run.attempts.at(-1).evaluated)} training samples after each epoch` : null,
    "sample size": (run) => run.attempts.at(-1)?.features.join(" \u00d7 "),
    "left out": (run) => Object.entries(run.attempts.at(-1)?.skipped ?? {}).map(([k, n]) => `${whole(n)} ${k}`).join(", "),
    "steps": (run) => `${whole(run.steps.last)} of ${whole(run.attempts.at(-1)?.steps ?? 0)} planned`,
    "throughput": (run) => run.last_epoch ? `${num(run.last_epoch.samples_per_second, 3)} samples/s` : null,
    "training time": (run) => run.finished ? duration(run.finished.seconds) : null,
    "started": (run) => utcTime(run.begun),
    "last event": (run) => utcTime(run.ended),
    "spec": (run) => run.attempts.at(-1)?.spec_hash.slice(0, 12),
    "label": (run) => run.spec?.label,
    "began with": (run) => run.origin ? `${run.origin.run}, step ${whole(run.origin.step)}` : null,
    "pods": (run) => run.pods.map((pod) =>
      h("span", { class: "line" }, `${pod.gpu}, ${pod.cloud.toLowerCase()}: ${duration(pod.hours * 3600)} at ${pod.per_hour} USD/h`)),
    "cost": (run) => run.pods.length ? money(run) : "not rented",
  };
  const shown = Object.entries(rows).map(([name, of]) => [name, ...RUNS.map((run) => of(run) || NONE)])
    .filter((row) => row.slice(1).some((cell) => cell !== NONE && String(cell) !== ""));
  return section("facts", "Hardware, versions, cost", table(["", ...RUNS.map((run) => SINGLE ? "" : [dot(run), run.label])], shown, { class: "facts" }));
};

const specs = () => section("spec", SINGLE ? "The spec" : "The specs", RUNS.map((run) =>
  h("details", {}, h("summary", {}, named(run, run.run)),
    scrolling(h("pre", { tabindex: "0" }, run.spec === null ? "not in the store" : JSON.stringify(run.spec, null, 2))))));
