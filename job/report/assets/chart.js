// A chart with its legend: lines, bands from least to greatest, and marks for what happened.

const SYNC = "evengrad";

// The first index in sorted xs whose value is at least x; xs.length if there is none.
const firstFrom = (xs, x) => {
  let low = 0, high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  return low;
};

// The index in sorted xs nearest to x that has a value in ys; -1 if there is none.
const nearest = (xs, ys, x) => {
  let low = Math.min(firstFrom(xs, x), xs.length - 1);
  if (low > 0 && x - xs[low - 1] < xs[low] - x) low -= 1;
  for (let away = 0; away < xs.length; away++) {
    if (ys[low - away] != null) return low - away;
    if (ys[low + away] != null) return low + away;
  }
  return -1;
};

// Round numbers for a logarithmic axis: uPlot's own ticks need an axis of whole decades.
const logTicks = (low, high) => {
  const decades = Math.log10(high / low);
  if (decades < 0.7) {
    const step = 10 ** Math.floor(Math.log10((high - low) / 2)), wide = (high - low) / step > 5 ? 2 * step : step;
    const first = Math.ceil(low / wide);
    return Array.from({ length: Math.floor(high / wide) - first + 1 }, (_, i) => (first + i) * wide);
  }
  const every = Math.max(1, Math.round(decades / 6)), of = decades > 3 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 5], ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += every) {
    ticks.push(...of.map((k) => k * 10 ** power).filter((tick) => tick >= low && tick <= high));
  }
  return ticks;
};

// The mean of the values around each, null where there is none; radius: how many on either side.
const smoothed = (values, radius) => {
  const sums = [0], counts = [0];
  values.forEach((value, i) => {
    sums.push(sums[i] + (value ?? 0));
    counts.push(counts[i] + (value === null ? 0 : 1));
  });
  return values.map((value, i) => {
    const from = Math.max(0, i - radius), to = Math.min(values.length, i + radius + 1);
    return value === null ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
  });
};
const SMOOTH = { off: 0, some: 0.01, much: 0.05 };  // the radius, as a share of a curve's length

// entries: {label, color, dash, width, run, xs (in steps), ys, low and high, flat, text(i), by}
// by: "step" for curves with a value for each step, which are smoothed, and which do not widen an axis that has others
class Chart {
  constructor(options) {
    Object.assign(this, { height: 190, marks: [], entries: [], unit: "" }, options);
    this.hidden = new Set(this.entries.filter((entry) => entry.off));
    this.holder = h("div", {
      class: "plot", tabindex: "0", role: "img", "aria-label": `${this.label}; arrow keys read values`,
      onkeydown: (event) => this.key(event), ...touching(this),
    });
    this.nothing = h("span", { class: "nothing", hidden: true }, "no data here");
    this.place = h("span", { class: "place" });
    this.legend = h("div", { class: "legend", style: `--most:${Math.round(this.height * 0.6)}px` }, this.entries.map((entry) => entry.button = this.button(entry)));
    this.element = h("figure", { class: this.wide ? "wide" : "card" }, this.caption, this.holder, this.place, this.legend);
    CHARTS.push(this);
  }

  button(entry) {
    entry.value = h("b");
    entry.swatch = h("i");
    return h("button", {
      type: "button", "aria-pressed": String(!this.hidden.has(entry)),
      onclick: (event) => {
        if (!this.hidden.delete(entry)) this.hidden.add(entry);
        event.currentTarget.setAttribute("aria-pressed", String(!this.hidden.has(entry)));
        this.draw();
      },
    }, entry.swatch, h("span", {}, entry.label), entry.value);
  }

  get whole() { return Math.max(...this.entries.map(({ run }) => lengthOf(run))); }

  get begin() { return Math.min(...this.entries.map(({ run }) => startOf(run))); }

  get span() { return settings.zoom ?? [this.begin, this.whole]; }

  draw() {
    const width = this.holder.clientWidth;
    if (!width) return;
    this.plot?.destroy();
    this.holder.replaceChildren(this.nothing);
    this.shown = this.entries.filter((entry) => !this.hidden.has(entry));
    for (const entry of this.entries) {
      const per = stepsPer(entry.run);
      entry.at = entry.flat === undefined ? entry.xs.map((x) => x / per) : [this.begin, this.whole];
      entry.of = entry.flat === undefined ? entry.ys : [entry.flat, entry.flat];
      entry.smooth = entry.by === "step" && settings.smooth !== "off" ? smoothed(entry.ys, Math.ceil(entry.ys.filter((v) => v !== null).length * SMOOTH[settings.smooth])) : null;
      entry.swatch.replaceChildren(swatch(entry, this.stacked?.()));
    }
    // A level has no place among areas that are stacked.
    this.legend.replaceChildren(...this.entries.filter(({ flat }) => flat === undefined || !this.stacked?.()).map(({ button }) => button));
    const { data, series, bands, flat = [] } = this.stacked?.() ? this.stack() : this.lines();
    const log = this.log?.();
    this.plot = new uPlot({
      width, height: this.height, series: [{}, ...series], bands, legend: { show: false },
      padding: [10, 14, 0, 0],
      scales: { x: { time: false, range: () => this.span }, y: this.scale(log) },
      axes: [this.axis({ label: settings.axis === "epochs" ? "epoch" : "step", labelSize: 18, size: 26 }),
        this.axis({ size: 54, ...(log ? { splits: (_, __, low, high) => logTicks(low, high), filter: (_, ticks) => ticks } : {}), values: (_, ticks) => ticks.map((v) => v === null || v === undefined ? "" : this.tick(v, ticks[1] - ticks[0])) })],
      cursor: {
        sync: { key: SYNC, scales: ["x", null], filters: { pub: (kind) => kind === "mousemove" || kind === "mouseleave" } },
        y: false, points: { size: 6 }, drag: { x: true, y: false, dist: 4, setScale: false },
        bind: { dblclick: () => () => zoomTo(null) },
      },
      hooks: {
        drawClear: [(plot) => paintUndone(plot, this.marksOf())], draw: [(plot) => paintMarks(plot, this.marksOf())],
        setCursor: [(plot) => this.read(plot)], setSelect: [(plot) => this.zoomToSelection(plot)],
      },
    }, data, this.holder);
    const hovered = this.plot.cursor.dataIdx;  // a level line has no points to highlight
    this.plot.cursor.dataIdx = (plot, i, ...more) => flat.includes(i) ? null : hovered(plot, i, ...more);
    this.update();
  }

  // Show the part of the axis that is chosen now.
  show() {
    if (!this.plot) return;
    const [min, max] = this.span;
    this.plot.setScale("x", { min, max });
    this.update();
  }

  // Show or hide "no data here", and write the legend's values.
  update() {
    const curves = this.shown.filter((entry) => entry.flat === undefined);
    this.nothing.hidden = !curves.length || curves.some((entry) => this.visible(entry).length);
    this.read(this.plot);
  }

  zoomToSelection(plot) {
    const { left, width } = plot.select;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (width) zoomTo([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
  }

  // The indices of sorted xs inside the span: the first, and the one after the last.
  places(xs) {
    const [from, to] = this.span;
    return [firstFrom(xs, from), firstFrom(xs, to * (1 + 1e-9))];
  }

  // A curve's values inside the span: its points, and where its line crosses an edge.
  visible({ at, of }) {
    const crossing = this.span.map((x) => {
      const after = firstFrom(at, x), [a, b] = [of[after - 1] ?? null, of[after] ?? null];
      return a === null || b === null ? null : a + (b - a) * (x - at[after - 1]) / (at[after] - at[after - 1]);
    });
    return [...of.slice(...this.places(at)), ...crossing].filter((value) => value !== null);
  }

  axis(more) {
    const line = { stroke: () => css("line"), width: 1 };
    return { stroke: () => css("soft"), font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif",
      grid: { ...line }, ticks: { ...line, size: 4 }, gap: 4, ...more };
  }

  // With enough digits to differ from the next tick.
  tick(value, step) {
    if (this.percent) return pct(value, (value && Math.abs(value) < 0.01) || step < 0.01 ? 1 : 0);
    return num(value, value && step > 0 ? Math.max(3, Math.ceil(Math.log10(Math.abs(value) / step)) + 1) : 3);
  }

  scale(log) {
    if (this.stacked?.()) return { range: [0, 1] };
    const fit = log ? (low, high) => [low / 1.15, high * 1.15] : (low, high) => uPlot.rangeNum(low, high, {
      min: { pad: 0.06, soft: 0, mode: 3 }, max: { pad: 0.06, soft: 0, mode: 3 } });
    return { distr: log ? 3 : 1, range: (_, low, high) => {  // of what is visible; a line may leave at an edge
      const known = (value) => value !== null && (!log || value > 0);
      const curves = this.shown.filter((entry) => entry.flat === undefined), calm = curves.filter((entry) => entry.by === "epoch");
      const of = (entries) => entries.flatMap((entry) => this.visible(entry)).filter(known);
      const epochs = of(calm), all = epochs.length ? epochs : [low, high, ...of(curves)].filter(known);
      if (!all.length) return log ? [0.1, 1] : [0, 1];
      const [least, most] = [Math.min(...all), Math.max(...all)];
      // A level line is shown if it is near: one far away would press the curves together.
      const near = this.shown.map(({ flat }) => flat).filter((flat) => flat !== undefined && known(flat) && flat <= 2 * most && flat >= least / 2);
      return fit(Math.min(least, ...near), Math.max(most, ...near));
    } };
  }

  lines() {
    const log = this.log?.(), tables = [], series = [], bands = [], flat = [];
    const fit = (values) => log ? values.map((v) => v > 0 ? v : null) : values;
    for (const entry of this.shown) {
      const color = entry.smooth ? faded(entry.color.slice(0, 7), 0.3) : entry.color;  // the raw values stay behind
      const at = series.length + 1, common = { stroke: color, points: { show: false }, spanGaps: false };
      if (entry.low) {
        tables.push([entry.at, fit(entry.high), fit(entry.low)]);
        const edge = { ...common, width: 0.5, stroke: faded(entry.color, 0.45), points: { show: false } };
        series.push(edge, edge);
        bands.push({ series: [at, at + 1], fill: faded(entry.color, BAND) });
      }
      tables.push([entry.at, fit(entry.of)]);
      if (entry.flat !== undefined) flat.push(series.length + 1);
      const few = entry.of.filter((v) => v !== null).length === 1;
      series.push({ ...common, width: entry.width ?? 1.75, dash: entry.dash, points: { show: few, size: 6 } });
      if (entry.smooth) {
        tables.push([entry.at, fit(entry.smooth)]);
        series.push({ ...common, stroke: entry.color, width: 1.5 });
      }
    }
    return { data: tables.length ? uPlot.join(tables) : [[]], series, bands, flat };
  }

  // Stacked areas; the topmost is drawn first, so that each hides what is below it.
  stack() {
    const parts = this.shown.filter((entry) => entry.flat === undefined && entry.of.length);
    const sums = [];
    parts.forEach((entry, i) => sums.push((entry.smooth ?? entry.of).map((v, j) => v === null ? null : v + (sums[i - 1]?.[j] ?? 0))));
    const series = parts.map((entry) => ({
      stroke: faded(entry.color, 0.9), width: 1, fill: faded(entry.color, 0.55), points: { show: false } }));
    const bands = parts.map((_, i) => ({ series: [i + 1, i] })).slice(1)
      .map((band) => ({ ...band, fill: faded(parts[band.series[0] - 1].color, 0.55) }));
    return { data: parts.length ? [parts[0].at, ...sums] : [[]], series, bands };
  }

  marksOf() { return this.marks.map(({ run, marks }) => ({ per: stepsPer(run), marks })); }

  // --- reading values ---

  // Write the values under the pointer into the legend; without a pointer, the last visible ones.
  read(plot) {
    const { left } = plot.cursor, hovered = left !== null && left >= 0;
    const x = hovered ? plot.posToVal(left, "x") : null;
    for (const entry of this.entries) {
      const i = hovered ? nearest(entry.at, entry.of, x) : this.last(entry);
      entry.value.textContent = entry.flat !== undefined ? entry.text?.() ?? num(entry.flat) : i < 0 ? NONE : entry.text(i);
    }
    const unit = settings.axis === "epochs" ? "epochs" : "steps";
    this.place.textContent = hovered ? this.where(x)
      : settings.zoom ? `${unit} ${settings.zoom.map((each) => num(each, 3)).join(" to ")}` : "";
  }

  last({ at, of }) {
    const [first, end] = this.places(at);
    for (let i = end - 1; i >= first; i--) if (of[i] !== null) return i;
    return -1;
  }

  where(x) {
    const runs = [...new Set(this.entries.map((entry) => entry.run))], [run] = runs;
    const step = Math.max(0, Math.round(x * stepsPer(run)));
    const [from, to] = this.span;
    const near = this.marks.flatMap(({ run: of, marks }) =>
      marks.alarms.filter((a) => Math.abs(a.step / stepsPer(of) - x) < (to - from) / 100));
    const alarm = near.length ? ` \u00b7 \u25bc ${near[0].kind.replaceAll("_", " ")}` : "";
    if (runs.length > 1) return `${settings.axis === "epochs" ? "epoch" : "step"} ${num(x, 3)}${alarm}`;
    return `epoch ${(step / run.per_epoch).toFixed(1)}, step ${whole(step)}${alarm}`;
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") this.plot.setCursor({ left: -10, top: -10 });
    if (move === undefined || !this.shown.length) return;
    event.preventDefault();
    const [all] = this.shown.map((entry) => entry.at).sort((a, b) => b.length - a.length);
    const xs = all.slice(...this.places(all));
    if (!xs.length) return;
    const { left } = this.plot.cursor;
    const now = left >= 0 ? nearest(xs, xs, this.plot.posToVal(left, "x")) : move > 0 ? -1 : xs.length;
    const to = Math.min(xs.length - 1, Math.max(0, now + move));
    this.plot.setCursor({ left: this.plot.valToPos(xs[to], "x"), top: 10 });
  }
}

const redraw = (chosen = () => true) => { for (const chart of CHARTS) if (chosen(chart)) chart.draw(); };
