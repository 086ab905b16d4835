// What the page carries, made into rows again, and how numbers are written.

const DATA = JSON.parse(document.getElementById("data").textContent);

/** Rows of a table that was written by column. */
function rowsOf(table) {
  return table.rows.map((values) => Object.fromEntries(table.columns.map((name, place) => [name, values[place]])));
}

for (const run of DATA.runs) {
  for (const name of ["front", "trials", "guesses", "ablation", "growth"]) run[name] = rowsOf(run[name]);
  run.whole = new Map(run.front.map((row) => [row.fingerprint, row]));
  // A plan that failed once and was judged later is known by its numbers.
  const failedFirst = run.trials
    .filter((row) => row.fingerprint)
    .sort((one, other) => known(one.quality) - known(other.quality));
  run.searched = new Map(failedFirst.map((row) => [row.fingerprint, row]));
  const asked = new Set(run.whole.keys());
  const others = run.trials.filter((row) => known(row.quality) && !asked.has(row.fingerprint));
  run.points = [
    ...run.front.map((row) => ({ ...row })),
    ...others.map((row) => ({ ...row, role: row.state === "infeasible" ? "infeasible" : "searched" })),
  ];
  for (const point of run.points) point.change = known(point.drop) ? -point.drop : null;
}

function known(value) {
  return value !== null && value !== undefined;
}

/** A number as people read it; "-" where there is none. */
function shown(value, digits, { sign = false } = {}) {
  if (!known(value)) return "-";
  const text = value.toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1");
  return sign && !text.startsWith("-") ? `+${text}` : text;
}

/** Text that Plotly takes for text: it reads a few tags in what it is given. */
function plainText(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** An element with attributes and children; strings become text, never markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (known(value) && value !== false) made.setAttribute(key, value === true ? "" : value);
  made.append(...children.flat().filter(known));
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function planName(row) {
  return row.is_baseline ? "the original" : row.plan || "no plan: it failed before there was one";
}

/** A cell that a spreadsheet takes for what it is: text that looks like a formula is marked as text. */
function csvCell(value) {
  if (!known(value)) return "";
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows as CSV or JSON; pictures of plans, which only this page reads, are left out. */
function written(rows, form) {
  const bare = rows.map(({ picture, ...row }) => row);
  if (form === "json") return JSON.stringify(bare, null, 1);
  const columns = [...new Set(bare.flatMap(Object.keys))];
  const lines = [columns, ...bare.map((row) => columns.map((name) => row[name]))];
  return lines.map((line) => line.map(csvCell).join(",")).join("\n") + "\n";
}

function download(rows, name, form) {
  const type = form === "csv" ? "text/csv" : "application/json";
  const address = URL.createObjectURL(new Blob([written(rows, form)], { type: `${type};charset=utf-8` }));
  const link = element("a", { href: address, download: `${name}.${form}` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
