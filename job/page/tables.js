// The page's words and tables: the verdict, the gates, what differs, what happened, the facts.

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
  if (gate.passed === undefined) return h("span", { class: "open" }, "not read yet");
  const value = gate.measured === null || gate.measured === undefined ? "not measured"
    : gate.unit === "share" ? pct(gate.measured) : num(gate.measured);
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
  const told = RUNS.filter((run) => run.last_epoch);
  if (!told.length) return null;
  const columns = ["loss", "trivial", "skill", "drop", "val. loss", "val. skill", "share", "weight", "saturated"];
  const rows = TASKS.flatMap((name) => told.filter((run) => run.last_epoch.tasks[name]).map((run) => {
    const task = run.last_epoch.tasks[name], { loss_unit: unit, ...facts } = run.tasks[name];
    const trivial = [facts.baseline_constant, facts.baseline_per_position].filter((v) => v != null);
    const cells = [num(task.train_loss_original), trivial.length ? num(Math.min(...trivial)) : NONE, signed(task.skill),
      pct(task.drop), num(task.val_loss_original), signed(task.val_skill), pct(task.grad_share), num(task.weight), pct(task.saturated)];
    return [h("span", { class: "named" }, dot(run), h("span", {}, name, unit ? h("small", {}, ` ${unit}`) : null)), ...cells];
  }));
  const when = SINGLE ? `After epoch ${told[0].last_epoch.epoch}` : "After the last epoch";
  return section("outcome", when, h("p", { class: "note" },
    "Losses in original units. Skill is 1 \u2212 loss / that of the best trivial prediction; drop is the share lost since epoch 1."),
    table(["task", ...columns], rows));
};
const signed = (value) => h("span", { class: value < 0 ? "bad" : "" }, pct(value));

// --- what happened, the spec, the facts ---

const KEY = [["alarm", "alarm"], ["checkpoint", "checkpoint"], ["resume", "resume"], ["undone", "superseded steps"]];

const history = (run) => {
  const { alarms, superseded, resumes, broken } = run.marks, rows = [];
  const at = (step) => `${whole(step)} (epoch ${(step / run.per_epoch).toFixed(1)})`;
  for (const alarm of alarms) rows.push([alarm.step, alarm.kind.replaceAll("_", " "), alarm.message]);
  for (const step of resumes) rows.push([step, "resume", `went on after step ${whole(step)}`]);
  for (const [from, to] of superseded) {
    rows.push([from, "superseded", `steps ${whole(from + 1)} to ${whole(to)} were undone and taken again`]);
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
    scrolling(h("pre", { tabindex: "0" }, run.spec === null ? "not in the store" : JSON.stringify(run.spec, null, 2))))));
