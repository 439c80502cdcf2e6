// A chart with its legend: lines, bands from least to greatest, and what happened beside them.

const CHARTS = [];
const SYNC = "evengrad";
const settings = { axis: "epochs", loss: "linear", shares: "stacked" };

// The place in sorted xs that is nearest to x and has a value in ys; -1 where there is none.
const nearest = (xs, ys, x) => {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  if (low > 0 && x - xs[low - 1] < xs[low] - x) low -= 1;
  for (let away = 0; away < xs.length; away++) {
    if (ys[low - away] != null) return low - away;
    if (ys[low + away] != null) return low + away;
  }
  return -1;
};

// Round numbers between two, on a logarithmic axis: uPlot's own need an axis of whole decades.
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

// entries: {label, color, dash, width, run, xs (in steps), ys or low and high, mean, flat, text(i)}
class Chart {
  constructor(options) {
    Object.assign(this, { height: 190, marks: [], entries: [], unit: "" }, options);
    this.hidden = new Set(this.entries.filter((entry) => entry.off));
    this.holder = h("div", {
      class: "plot", tabindex: "0", role: "img", "aria-label": `${this.label}; arrow keys read values`,
      onkeydown: (event) => this.key(event),
    });
    this.place = h("span", { class: "place" });
    this.legend = h("div", { class: "legend" }, this.entries.map((entry) => this.button(entry)), this.place);
    this.element = h("figure", { class: this.wide ? "wide" : "card" }, this.caption, this.holder, this.legend);
    CHARTS.push(this);
  }

  button(entry) {
    entry.value = h("b");
    const swatch = h("i", { class: entry.low && !entry.ys ? "band" : entry.dash ? "dashed" : "", style: `--swatch:${entry.color}` });
    return h("button", {
      type: "button", "aria-pressed": String(!this.hidden.has(entry)),
      onclick: (event) => {
        if (!this.hidden.delete(entry)) this.hidden.add(entry);
        event.currentTarget.setAttribute("aria-pressed", String(!this.hidden.has(entry)));
        this.draw();
      },
    }, swatch, h("span", {}, entry.label), entry.value);
  }

  per(run) { return settings.axis === "epochs" ? run.per_epoch : 1; }

  get whole() { return Math.max(...this.entries.map(({ run }) => run.last_step / this.per(run))); }

  draw() {
    const width = this.holder.clientWidth;
    if (!width) return;
    const zoomed = this.zoom;
    this.plot?.destroy();
    this.shown = this.entries.filter((entry) => !this.hidden.has(entry));
    for (const entry of this.entries) {
      const per = this.per(entry.run);
      entry.at = entry.flat === undefined ? entry.xs.map((x) => x / per) : [0, this.whole];
      entry.of = entry.flat === undefined ? entry.ys ?? entry.high : [entry.flat, entry.flat];
    }
    const { data, series, bands, flat = [] } = this.stacked?.() ? this.stack() : this.lines();
    const log = this.log?.();
    this.plot = new uPlot({
      width, height: this.height, series: [{}, ...series], bands, legend: { show: false },
      padding: [10, 14, 0, 0],
      scales: { x: { time: false, range: (_, low, high) => this.range(data[0], low, high) }, y: this.scale(log) },
      axes: [this.axis({ label: settings.axis === "epochs" ? "epoch" : "step", labelSize: 18, size: 26 }),
        this.axis({ size: 54, ...(log ? { splits: (_, __, low, high) => logTicks(low, high), filter: (_, ticks) => ticks } : {}), values: (_, ticks) => ticks.map((v) => v === null || v === undefined ? "" : this.tick(v)) })],
      cursor: { sync: { key: SYNC, scales: ["x", null] }, y: false, points: { size: 6 }, drag: { x: true, y: false } },
      hooks: {
        drawClear: [(plot) => this.veil(plot)], draw: [(plot) => this.happened(plot)],
        setCursor: [(plot) => this.read(plot)],
        setScale: [(plot, key) => { if (key === "x") this.zoom = [plot.scales.x.min, plot.scales.x.max]; }],
      },
    }, data, this.holder);
    const hovered = this.plot.cursor.dataIdx;  // a level line has no place to point at
    this.plot.cursor.dataIdx = (plot, i, ...more) => flat.includes(i) ? null : hovered(plot, i, ...more);
    if (zoomed) this.plot.setScale("x", { min: zoomed[0], max: zoomed[1] });
    this.read(this.plot);
  }

  axis(more) {
    const line = { stroke: () => css("line"), width: 1 };
    return { stroke: () => css("soft"), font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif",
      grid: { ...line }, ticks: { ...line, size: 4 }, gap: 4, ...more };
  }

  tick(value) { return this.percent ? pct(value, value && Math.abs(value) < 0.01 ? 1 : 0) : num(value, 3); }

  // All of the run from 0 on, or what was chosen of it.
  range(xs, low, high) {
    const all = !xs.length || low === null || (low === xs[0] && high === xs.at(-1));
    return all || !(high > low) ? [0, this.whole] : [low, high];
  }

  scale(log) {
    if (this.stacked?.()) return { range: [0, 1] };
    if (!log) {
      return { range: (_, low, high) => low === null ? [0, 1] : uPlot.rangeNum(low, high, {
        min: { pad: 0.06, soft: 0, mode: 3 }, max: { pad: 0.06, soft: 0, mode: 3 } }) };
    }
    return { distr: 3, range: (_, low, high) => low === null ? [0.1, 1] : [low / 1.15, high * 1.15] };
  }

  lines() {
    const log = this.log?.(), tables = [], series = [], bands = [], flat = [];
    const fit = (values) => log ? values.map((v) => v > 0 ? v : null) : values;
    for (const entry of this.shown) {
      const at = series.length + 1, common = { stroke: entry.color, points: { show: false }, spanGaps: false };
      if (entry.low) {
        tables.push([entry.at, fit(entry.high), fit(entry.low)]);
        const edge = { ...common, width: 0.5, stroke: faded(entry.color, 0.45), points: { show: false } };
        series.push(edge, edge);
        bands.push({ series: [at, at + 1], fill: faded(entry.color, 0.16) });
      }
      if (entry.ys || entry.flat !== undefined) {
        tables.push([entry.at, fit(entry.of)]);
        if (entry.flat !== undefined) flat.push(series.length + 1);
        const few = entry.of.filter((v) => v !== null).length === 1;
        series.push({ ...common, width: entry.width ?? 1.75, dash: entry.dash, points: { show: few, size: 6 } });
      }
    }
    return { data: tables.length ? uPlot.join(tables) : [[]], series, bands, flat };
  }

  // Areas one on another; the topmost is drawn first, so that each hides what is below it.
  stack() {
    const parts = this.shown.filter((entry) => entry.of.length);
    const sums = [];
    parts.forEach((entry, i) => sums.push(entry.of.map((v, j) => v === null ? null : v + (sums[i - 1]?.[j] ?? 0))));
    const series = parts.map((entry) => ({
      stroke: faded(entry.color, 0.9), width: 1, fill: faded(entry.color, 0.55), points: { show: false } }));
    const bands = parts.map((_, i) => ({ series: [i + 1, i] })).slice(1)
      .map((band) => ({ ...band, fill: faded(parts[band.series[0] - 1].color, 0.55) }));
    return { data: parts.length ? [parts[0].at, ...sums] : [[]], series, bands };
  }

  // --- what happened ---

  marksOf() { return this.marks.map(({ run, marks }) => ({ per: this.per(run), marks })); }

  veil(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = css("veil");
    for (const { per, marks } of this.marksOf()) {
      for (const [from, to] of marks.superseded) {
        const left = plot.valToPos(from / per, "x", true), right = plot.valToPos(to / per, "x", true);
        ctx.fillRect(left, bbox.top, Math.max(right - left, 2), bbox.height);
      }
    }
    ctx.restore();
  }

  happened(plot) {
    const { ctx, bbox } = plot, dot = devicePixelRatio, bottom = bbox.top + bbox.height;
    const inside = (x) => x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1;
    ctx.save();
    for (const { per, marks } of this.marksOf()) {
      const at = (steps) => steps.map((step) => plot.valToPos(step / per, "x", true)).filter(inside);
      const saved = at(marks.checkpoints), dense = saved.length > plot.width / 8;
      ctx.fillStyle = css(dense ? "line" : "soft");
      for (const x of saved) ctx.fillRect(x - dot / 2, bottom - 5 * dot, dot, 5 * dot);
      ctx.fillStyle = css("resume");
      for (const x of at(marks.resumes)) ctx.fillRect(x - dot / 2, bbox.top, 1.5 * dot, bbox.height);
      ctx.fillStyle = css("alarm");
      for (const x of at(marks.alarms.map((alarm) => alarm.step))) {
        ctx.beginPath();
        ctx.moveTo(x - 5 * dot, bbox.top - 8 * dot);
        ctx.lineTo(x + 5 * dot, bbox.top - 8 * dot);
        ctx.lineTo(x, bbox.top);
        ctx.fill();
      }
    }
    ctx.restore();
  }

  // --- reading values ---

  read(plot) {
    const { left } = plot.cursor, hovered = left !== null && left >= 0;
    const x = hovered ? plot.posToVal(left, "x") : Infinity;
    for (const entry of this.entries) {
      const i = nearest(entry.at, entry.of, x);
      entry.value.textContent = i < 0 ? NONE : entry.flat !== undefined ? num(entry.flat) : entry.text(i);
    }
    this.place.textContent = hovered ? this.where(x) : "";
  }

  where(x) {
    const runs = [...new Set(this.entries.map((entry) => entry.run))], [run] = runs;
    const step = Math.max(0, Math.round(x * this.per(run)));
    const near = this.marks.flatMap(({ run: of, marks }) =>
      marks.alarms.filter((a) => Math.abs(a.step / this.per(of) - x) < (this.zoom[1] - this.zoom[0]) / 100));
    const alarm = near.length ? ` \u00b7 \u25bc ${near[0].kind.replaceAll("_", " ")}` : "";
    if (runs.length > 1) return `${settings.axis === "epochs" ? "epoch" : "step"} ${num(x, 3)}${alarm}`;
    return `epoch ${(step / run.per_epoch).toFixed(1)}, step ${whole(step)}${alarm}`;
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") this.plot.setCursor({ left: -10, top: -10 });
    if (move === undefined || !this.shown.length) return;
    event.preventDefault();
    const [xs] = this.shown.map((entry) => entry.at).sort((a, b) => b.length - a.length);
    const { left } = this.plot.cursor;
    const now = left >= 0 ? nearest(xs, xs, this.plot.posToVal(left, "x")) : move > 0 ? -1 : xs.length;
    const to = Math.min(xs.length - 1, Math.max(0, now + move));
    this.plot.setCursor({ left: this.plot.valToPos(xs[to], "x"), top: 10 });
  }
}

const redraw = (chosen = () => true) => { for (const chart of CHARTS) if (chosen(chart)) chart.draw(); };
