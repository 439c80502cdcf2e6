// The part of the axis that all charts show: settings.zoom, [from, to] in the axis's units, or null for all.

const settings = { axis: "epochs", loss: "linear", shares: "stacked", smooth: "off", zoom: null };
const CHARTS = [], HEATMAPS = [];

const stepsPer = (run) => settings.axis === "epochs" ? run.per_epoch : 1;
const lengthOf = (run) => run.last_step / stepsPer(run);
const startOf = (run) => run.first_step / stepsPer(run);  // of a run that extends another, not 0

// The span moved into the axis, and widened to at least two points of a curve; null for the whole axis.
const allowed = ([from, to]) => {
  const end = Math.max(...RUNS.map(lengthOf)), begin = Math.min(...RUNS.map(startOf));
  const least = Math.min(end - begin, ...RUNS.map((run) => 2 * run.steps.width / stepsPer(run)));
  const wide = Math.max(to - from, least), middle = (from + to) / 2;
  const low = Math.max(begin, Math.min(end - wide, middle - wide / 2));
  return wide >= end - begin ? null : [low, low + wide];
};

const zoomTo = (wanted) => {
  settings.zoom = wanted && allowed(wanted);
  document.documentElement.classList.toggle("zoomed", settings.zoom !== null);
  for (const chart of CHARTS) chart.show();
  for (const heatmap of HEATMAPS) heatmap.draw();
};

const showAll = () => h("button", { type: "button", class: "all", onclick: () => zoomTo(null) }, "show all");

// One finger on a chart reads values; with two, the values under the fingers stay under them.
const touching = (chart) => {
  const fingers = new Map();
  let held = null, waiting = null;
  const places = () => {
    const { left } = chart.plot.over.getBoundingClientRect();
    return [...fingers.values()].map((x) => x - left).sort((a, b) => a - b);
  };
  const spread = () => {
    waiting = null;
    const [a, b] = places(), [from, to] = held ?? [];
    if (!held || !(b - a > 10)) return;
    const unit = (to - from) / (b - a), low = from - a * unit;
    zoomTo([low, low + chart.plot.over.clientWidth * unit]);
  };
  const changed = () => { held = fingers.size === 2 ? places().map((x) => chart.plot.posToVal(x, "x")) : null; };
  const touch = (act) => (event) => { if (event.pointerType === "touch" && chart.plot) act(event); };
  const lift = touch((event) => { fingers.delete(event.pointerId); changed(); });
  return {
    onpointerdown: touch((event) => { fingers.set(event.pointerId, event.clientX); changed(); }),
    onpointermove: touch((event) => {
      if (!fingers.has(event.pointerId)) return;
      fingers.set(event.pointerId, event.clientX);
      if (held) waiting ??= requestAnimationFrame(spread);
      else chart.plot.setCursor({ left: places()[0], top: 10 });
    }),
    onpointerup: lift, onpointercancel: lift,
  };
};
