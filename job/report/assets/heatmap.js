// Cosines of pairs of tasks over time: a row for each pair, a column for one epoch or several.

const FEW = 28;

class Heatmap {
  constructor(run, caption) {
    Object.assign(this, { run, ...run.cosines });
    const order = this.pairs.map((_, i) => i);
    const mean = (row) => row.reduce((sum, v) => sum + (v ?? 0), 0) / row.length;
    this.sorted = this.pairs.length > FEW;
    if (this.sorted) order.sort((a, b) => mean(this.values[a]) - mean(this.values[b]));
    this.order = order;
    this.all = !this.sorted;
    this.canvas = h("canvas", {
      tabindex: "0", role: "img", "aria-label": "cosines of pairs of tasks; arrow keys read values",
      onmousemove: (event) => this.point(event), onmouseleave: () => this.select(null),
      onkeydown: (event) => this.key(event),
    });
    this.names = h("div", { class: "names" });
    this.ticks = h("div", { class: "ticks" });
    this.value = h("span", { class: "place" });
    const more = this.sorted ? h("button", {
      type: "button", "aria-pressed": "false", class: "plain",
      onclick: (event) => {
        this.all = !this.all;
        event.currentTarget.setAttribute("aria-pressed", String(this.all));
        this.draw();
      },
    }, `all ${this.pairs.length} pairs, not only the ${FEW} lowest`) : null;
    this.nothing = h("p", { class: "nothing", hidden: true }, "no data here");
    this.element = h("figure", { class: "wide heat" }, caption,
      h("div", { class: "heatmap" }, this.names, h("div", { class: "cells" }, this.canvas, this.nothing, this.ticks)),
      h("div", { class: "legend" }, h("span", { class: "key" }, `${MINUS}1`, h("i"), "1"), more, this.value));
    HEATMAPS.push(this);
  }

  get rows() { return this.all ? this.order : this.order.slice(0, FEW); }

  // The columns inside the zoom, [first, end]. An epoch's column begins where the epoch before ended.
  get columns() {
    const count = this.values[0].length, each = this.width * this.run.per_epoch / stepsPer(this.run);
    if (!settings.zoom) return [Math.min(Math.floor(this.run.first_step / this.run.per_epoch / this.width), count), count];
    const [from, to] = settings.zoom, first = Math.floor(from / each + 1e-9);
    return [Math.min(first, count), Math.min(Math.ceil(to / each - 1e-9), count)];
  }

  draw() {
    const rows = this.rows, [first, end] = this.columns, columns = end - first;
    this.nothing.hidden = columns > 0;
    this.select(null);
    this.height = this.all && this.sorted ? 12 : 20;
    this.names.replaceChildren(...rows.map((row) =>
      h("div", { style: `height:${this.height}px;line-height:${this.height}px` }, this.pairs[row].join(" \u00d7 "))));
    const width = this.canvas.parentElement.clientWidth, dot = devicePixelRatio;
    if (!width) return;
    this.canvas.style.height = `${rows.length * this.height}px`;
    this.canvas.width = width * dot;
    this.canvas.height = rows.length * this.height * dot;
    const ctx = this.canvas.getContext("2d"), wide = this.canvas.width / columns, high = this.height * dot;
    const against = css("against"), along = css("along");
    rows.forEach((row, j) => this.values[row].slice(first, end).forEach((value, i) => {
      if (value === null) return;
      ctx.fillStyle = heat(value, against, along);
      const left = Math.floor(i * wide);
      ctx.fillRect(left, j * high, Math.ceil((i + 1) * wide) - left, high - dot);
    }));
    const marks = columns > 0 ? [...new Set([0, Math.floor((columns - 1) / 2), columns - 1])] : [];
    this.ticks.replaceChildren(...marks.map((i) => h("span", {}, `epoch ${this.epochs(first + i)}`)));
  }

  epochs(i) {
    const last = this.run.last_epoch.epoch, from = i * this.width + 1, to = Math.min((i + 1) * this.width, last);
    return this.width > 1 ? `${from}\u2013${to}` : String(from);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect(), [first, end] = this.columns;
    this.select([Math.floor((event.clientY - box.top) / this.height),
      first + Math.floor((event.clientX - box.left) / box.width * (end - first))]);
  }

  key(event) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") this.select(null);
    if (!move) return;
    event.preventDefault();
    const [first, end] = this.columns;
    if (end <= first) return;
    const [row, column] = this.at ?? [-move[0], first - move[1]];
    const clamp = (value, low, high) => Math.max(low, Math.min(high - 1, value));
    this.select([clamp(row + move[0], 0, this.rows.length), clamp(column + move[1], first, end)]);
  }

  // at: [row, column], or null for none.
  select(at) {
    this.at = at;
    const row = at === null ? undefined : this.rows[at[0]], value = this.values[row]?.[at?.[1]];
    const lowest = this.width > 1 ? "lowest of " : "";
    this.value.textContent = value === undefined ? ""
      : `${this.pairs[row].join(" \u00d7 ")}, ${lowest}epoch ${this.epochs(at[1])}: ${num(value, 3)}`;
  }
}

// Orange if gradients oppose each other, blue if they agree, pale if they are independent.
const heat = (cosine, against, along) => {
  const strength = Math.min(1, Math.abs(cosine)) ** 0.7;
  return `rgb(${cosine < 0 ? against : along} / ${(0.04 + 0.96 * strength).toFixed(3)})`;
};
