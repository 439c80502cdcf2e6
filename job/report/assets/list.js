// The page of all runs: a table that is sorted by a click on a heading, and filtered by a text.

const DATA = JSON.parse(document.getElementById("data").textContent);

const ago = (seconds) => {
  if (seconds === null) return NONE;
  const [unit, length] = [["s", 1], ["min", 60], ["h", 3600]].find(([, each]) => seconds < 120 * each && each < 3600 || seconds < 48 * each && each === 3600) ?? ["d", 86400];
  return `${Math.max(0, seconds / length).toFixed(0)}${NBSP}${unit}`;
};
const bytes = (count) => {
  const power = Math.min(3, Math.max(0, Math.floor(Math.log10(count || 1) / 3)));
  return `${num(count / 1000 ** power, 3)}${NBSP}${["B", "kB", "MB", "GB"][power]}`;
};
const skill = ({ skill: value, error, why }) => value === null || value === undefined
  ? h("span", { class: "open", title: why }, "not measurable")
  : h("span", { class: value < 0 ? "bad" : "" }, error === null || error === undefined ? pct(value) : `${pct(value).replace(/\u00a0%$/, "")} \u00b1 ${pct(error)}`);

const stateClass = (row) => row.state === "passed" ? "good" : row.finished || row.state === "damaged" ? "bad" : "open";
const skills = (row) => Object.entries(row.skills).map(([name, worth]) => h("span", { class: "of-task" }, `${name} `, skill(worth)));

// title; key: what rows are sorted by, undefined is last; cell
const COLUMNS = [
  ["run", (row) => row.run, (row) => row.link ? h("a", { href: row.link }, row.run) : row.run],
  ["label", (row) => row.label || undefined, (row) => [row.label, row.notes ? h("details", {}, h("summary", {}, "notes"), row.notes) : null]],
  ["verdict", (row) => row.state, (row) => [h("span", { class: stateClass(row) }, h("em", {}, row.state.replaceAll("_", " "))), row.control ? " (control)" : null]],
  ["least skill", (row) => row.least === null ? undefined : row.skills[row.least].skill ?? undefined, (row) => row.least === null ? NONE : skill(row.skills[row.least])],
  ["skill by task", (row) => Object.keys(row.skills).length || undefined, (row) => skills(row)],
  ["age", (row) => row.age_seconds ?? undefined, (row) => ago(row.age_seconds)],
  ["size", (row) => row.bytes, (row) => bytes(row.bytes)],
  ["details", (row) => row.detail || undefined, (row) => [row.detail, row.origin ? h("span", { class: "line" }, `begins with ${row.origin}`) : null]],
];

let by = COLUMNS.findIndex(([title]) => title === "age"), down = false, wanted = "";

const compared = (a, b) => {
  const [x, y] = [a, b].map(COLUMNS[by][1]);
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  return (down ? -1 : 1) * (typeof x === "string" ? x.localeCompare(y) : x - y);
};

const holder = h("div");
const draw = () => {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = DATA.rows.filter((row) => {
    const text = [row.run, row.label, row.notes, row.state, row.detail].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  }).sort(compared);
  const heads = COLUMNS.map(([title], i) => h("button", { type: "button", "data-sort": title, onclick: () => {
    down = by === i ? !down : title === "least skill";
    by = i;
    draw();
    holder.querySelectorAll("thead button")[i].focus();
  } }, title, h("span", { "aria-hidden": "true" }, i === by ? (down ? " \u25be" : " \u25b4") : "")));
  const whole = table(heads, rows.map((row) => COLUMNS.map(([, , cell]) => cell(row))), { class: "runs" });
  whole.querySelectorAll("thead th")[by].setAttribute("aria-sort", down ? "descending" : "ascending");
  holder.replaceChildren(h("p", { class: "note", id: "count" }, `${rows.length} of ${DATA.rows.length} runs`), whole);
};

document.getElementById("page").replaceChildren(
  h("header", {}, h("p", { class: "kicker" }, "evengrad runs", h("span", {}, choice("theme", "theme", ["auto", "light", "dark"], "auto", (value) => {
    const dark = value === "dark" || (value === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }))), h("h1", {}, DATA.store),
  h("p", { class: "note" }, "Skill is what predictions on the validation split are worth: 1 \u2212 loss / loss of the best trivial prediction, with its standard error. Age is the time since the last sign of life.")),
  h("p", { class: "filter" }, h("input", { type: "search", placeholder: "filter: words of name, label, verdict", "aria-label": "filter", oninput: (event) => {
    wanted = event.currentTarget.value;
    draw();
  } })), holder,
  h("footer", {}, `evengrad ${DATA.version}, made ${utcTime(DATA.made)}.`));
document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
draw();
document.documentElement.dataset.ready = performance.now().toFixed();
