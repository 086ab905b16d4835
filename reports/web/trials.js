// All trials in a table that is sorted, searched, and shown a part at a time: thousands of rows would be slow to draw.

const COLUMNS = [
  ["number", "#", 0],
  ["state", "state"],
  ["quality", null, 4],
  ["drop", "drop", 4, { sign: true }],
  ["latency_ms", "ms", 2],
  ["speedup", "speed-up", 2],
  ["memory_mb", "MB peak", 0],
  ["size_mb", "MB stored", 1],
  ["plan", "plan, and cause where it failed"],
];
const PREDICTED = new Set(["latency_ms", "speedup", "memory_mb"]);
const PART = 200;

/** Smaller first; what has no value comes last whichever way is sorted. */
function compareRows(one, other, name, direction) {
  const [a, b] = [one[name], other[name]];
  if (!known(a) || !known(b)) return known(b) - known(a);
  return direction * (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
}

function trialRow(run, row, choose) {
  const cells = COLUMNS.map(([name, , digits, form]) => {
    if (name === "plan") {
      const button = element(
        "button",
        { type: "button", class: "link" },
        row.is_baseline ? "the original" : (row.plan ?? "(no plan)"),
      );
      button.addEventListener("click", () => choose(row));
      return element(
        "td",
        { class: "text" },
        button,
        row.cause ? element("span", { class: "cause" }, row.cause) : null,
      );
    }
    if (name === "state") return element("td", { class: "text" }, row.state);
    const mark = row.predicted && PREDICTED.has(name) && known(row[name]) ? "~" : "";
    return element("td", {}, mark + shown(row[name], digits, form));
  });
  return element("tr", { "data-number": row.number }, cells);
}

/** Fills the table of a run and keeps it in step with its controls. */
function trialsTable(run, article, choose) {
  const table = article.querySelector("[data-trials]");
  if (!table) return;
  const [search, state] = ["search", "state"].map((name) => article.querySelector(`[data-control="${name}"]`));
  const [more, count] = [article.querySelector("[data-more]"), article.querySelector("[data-count]")];
  const body = element("tbody");
  let [sorted, direction, part] = ["number", 1, PART];
  for (const name of new Set(run.trials.map((row) => row.state)))
    state.append(element("option", { value: name }, name));

  const words = run.trials.map((row) =>
    [row.number, row.state, row.plan, row.cause, row.fingerprint, row.changes, row.kernels].join(" ").toLowerCase(),
  );
  function render() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = run.trials.filter(
      (row, place) =>
        (!state.value || row.state === state.value) && wanted.every((word) => words[place].includes(word)),
    );
    found.sort((one, other) => compareRows(one, other, sorted, direction) || one.number - other.number);
    body.replaceChildren(...found.slice(0, part).map((row) => trialRow(run, row, choose)));
    more.hidden = found.length <= part;
    count.textContent = `${found.length} of ${run.trials.length}`;
    for (const head of table.tHead.rows[0].cells)
      head.setAttribute(
        "aria-sort",
        head.dataset.name === sorted ? (direction > 0 ? "ascending" : "descending") : "none",
      );
  }
  const heads = COLUMNS.map(([name, title]) => {
    const button = element("button", { type: "button" }, title ?? run.metric);
    button.addEventListener("click", () => {
      direction = sorted === name ? -direction : name === "quality" || name === "speedup" ? -1 : 1;
      sorted = name;
      render();
    });
    return element(
      "th",
      { class: name === "plan" || name === "state" ? "text" : "", "data-name": name, scope: "col" },
      button,
    );
  });
  table.append(element("thead", {}, element("tr", {}, heads)), body);
  search.addEventListener("input", () => {
    part = PART;
    render();
  });
  state.addEventListener("change", () => {
    part = PART;
    render();
  });
  more.addEventListener("click", () => {
    part += PART;
    render();
  });
  render();
}
