// Elements of the page, numbers as people read them, and colours of the theme.

const h = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return element;
};

const MINUS = "\u2212", NBSP = "\u00a0", NONE = "\u2013";
const minus = (text) => text.replace(/-/g, MINUS);
const num = (value, digits = 4) =>
  value === null || value === undefined ? NONE : minus(String(Number(value.toPrecision(digits))));
const pct = (value, digits = 1) => {
  if (value === null || value === undefined) return NONE;
  while (digits < 3 && Math.abs(value) < 1 && Math.abs((100 * value).toFixed(digits)) >= 100) digits += 1;  // less than 100 % is not rounded to it
  return minus((100 * value).toFixed(digits)) + NBSP + "%";
};
const whole = (value) => value.toLocaleString("en-US");

const duration = (seconds) => {
  if (seconds < 120) return `${num(seconds, 3)}${NBSP}s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)}${NBSP}min`;
  return `${(seconds / 3600).toFixed(1)}${NBSP}h`;
};
const utcTime = (text) =>
  text ? text.slice(0, 16).replace("T", " ") + " UTC" : NONE;

// A canvas cannot use CSS variables, so their values are looked up for each drawing.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const PALETTE = [
  "#4269d0", "#e58606", "#3ca951", "#d6336c", "#8a5cd6", "#1a9e96", "#9c6b4e", "#6b7c93",
];
const colour = (i, count) => {
  if (count <= PALETTE.length) return PALETTE[i];
  return `hsl(${(i * 137.5 + 225) % 360} ${i % 2 ? 48 : 62}% ${[52, 62, 44][i % 3]}%)`;
};
const BAND = 0.22;
const faded = (value, alpha) =>
  value.startsWith("hsl")
    ? value.replace(")", ` / ${alpha})`)
    : value + Math.round(alpha * 255).toString(16).padStart(2, "0");

// A setting with several values: buttons, one of which is pressed.
const choice = (name, label, options, chosen, change) => {
  const buttons = options.map((option) =>
    h("button", {
      type: "button", "data-value": option, "aria-pressed": String(option === chosen),
      onclick: () => {
        for (const each of buttons) each.setAttribute("aria-pressed", String(each === buttons[options.indexOf(option)]));
        change(option);
      },
    }, option));
  return h("div", { class: "choice", id: name, role: "group", "aria-label": label },
    h("span", {}, label), buttons);
};

// An element that scrolls sideways: its edge is faded while there is more behind it.
const scrolling = (element) => {
  const look = () => {
    element.classList.toggle("more", element.scrollLeft + element.clientWidth < element.scrollWidth - 1);
    element.classList.toggle("moved", element.scrollLeft > 0);
  };
  element.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(element);
  return element;
};

const table = (head, rows, attributes = {}) =>
  scrolling(h("div", { class: "scroll", tabindex: "0" }, h("table", attributes,
    h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
    h("tbody", {}, rows.map((row) =>
      h("tr", {}, row.map((cell, i) => i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))))));

// An element of a drawing.
const shape = (name, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return element;
};

// A small sample of a curve: its line as in the chart with its band behind it, or its area.
const swatch = ({ color, width = 1.75, dash = [], low }, area) => {
  const whole = shape("svg", { width: 24, height: 10, "aria-hidden": "true" });
  if (low || area) whole.append(shape("rect", { width: 24, height: 10, fill: faded(color, area ? 0.55 : BAND) }));
  if (area) whole.append(shape("rect", { width: 24, height: 1, fill: color }));
  else whole.append(shape("path", { d: width < 1.5 ? "M0 4.5H24" : "M0 5H24", stroke: color, "stroke-width": width, "stroke-dasharray": dash.join(" ") }));
  return whole;
};
