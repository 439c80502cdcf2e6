// What the run shows on other data: a row for each task, the spec's gates, a row for each task of each slice.

const evaluated = () => {
  const run = RUNS.find((each) => each.evaluated);
  if (!run) return null;
  const about = run.evaluated, columns = ["task", "loss", "trivial loss", "skill", "metrics"];
  const metricsOf = (task, unit) => Object.entries(task.metrics).map(([metric, value]) =>
    `${metric.replaceAll("_", " ")} ${num(value)}${unit && value !== null && DATA.metrics_with_unit.includes(metric) ? ` ${unit}` : ""}`);
  const rows = (of) => Object.entries(of.tasks).map(([name, task]) => {
    const { loss_unit, unit } = run.tasks[name] ?? {};
    return [h("span", {}, name, loss_unit ? h("small", {}, ` ${loss_unit}`) : null), num(task.loss_original),
      num(task.trivial_loss_original), signed(task.skill, task.skill_error), metricsOf(task, unit).join(", ")];
  });
  const notes = (lines) => lines.map((line) => h("p", { class: "note" }, line));
  const verdicts = about.gates.map((gate) => [gate.gate, gate.unit === "share" ? around(gate.measured, gate.error) : num(gate.measured),
    h("span", { class: gate.passed ? "" : "bad" }, gate.passed ? "passed" : "failed")]);
  const slices = Object.entries(about.slices).flatMap(([group, of]) => rows(of).map((row) => [group || "(empty)", whole(of.samples), ...row]));
  return section("evaluated", `On ${about.data}`, h("p", { class: "note" },
    `${whole(about.samples)} samples, by the weights of step ${whole(about.step)}. The trivial prediction is fitted to these very samples.`),
    table(columns, rows(about)), notes(about.notes),
    verdicts.length ? [h("h3", {}, "Gates on this data"), table(["gate", "measured", "verdict"], verdicts)] : null,
    notes(about.gates_left_out.map((gate) => `not measured here, as it is about the run\u2019s training: ${gate}`)),
    slices.length ? [h("h3", {}, "Slices"), table(["slice", "samples", ...columns], slices), notes(about.notes_of_slices)] : null);
};
