// The chosen candidate: what it is, what was done to it, what it costs, what became of it.

const NUMBERS = [
  ["quality", 4],
  ["drop", 4, { sign: true }],
  ["latency_ms", 2],
  ["speedup", 2],
  ["memory_mb", 0],
  ["size_mb", 1],
  ["size_ratio", 2],
  ["first_token_ms", 2],
  ["further_token_ms", 2],
  ["p50_ms", 2],
  ["p90_ms", 2],
  ["p99_ms", 2],
  ["requests_per_second", 1],
];
const NAMES = {
  drop: "drop",
  latency_ms: "latency, ms",
  speedup: "times as fast",
  memory_mb: "peak memory, MB",
  size_mb: "stored, MB",
  size_ratio: "times smaller",
  first_token_ms: "first token, ms",
  further_token_ms: "each further token, ms",
  p50_ms: "50 % within, ms",
  p90_ms: "90 % within, ms",
  p99_ms: "99 % within, ms",
  requests_per_second: "requests per second",
};
const ENDS = {
  quality: ["quality_low", "quality_high"],
  drop: ["drop_low", "drop_high"],
  latency_ms: ["latency_low_ms", "latency_high_ms"],
};
const ROLES = {
  front: "on the front",
  baseline: "the original",
  naive: "naive, to compare with",
  beaten: "beaten when measured whole",
};

/** A number with its interval, and ~ where it was predicted. */
function numberCell(row, name, digits, form) {
  if (!row || !known(row[name])) return "-";
  const mark = row.predicted && ["latency_ms", "speedup", "memory_mb"].includes(name) ? "~" : "";
  const [low, high] = ENDS[name] ?? [];
  const ends =
    known(row[low]) && known(row[high])
      ? element("small", {}, `${shown(row[low], digits, form)} to ${shown(row[high], digits, form)}`)
      : null;
  return [`${mark}${shown(row[name], digits, form)}`, ends];
}

function numbersTable(run, searched, whole) {
  const splits = [
    ...(searched ? [["search split", searched]] : []),
    ...(whole && whole.split === "test" ? [["test split", whole]] : []),
  ];
  const body = NUMBERS.filter(([name]) => splits.some(([, row]) => known(row[name]))).map(([name, digits, form]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name === "quality" ? run.metric : NAMES[name]),
      ...splits.map(([, row]) => element("td", {}, numberCell(row, name, digits, form))),
    ),
  );
  const heads = splits.map(([title]) => element("th", { scope: "col" }, title));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, element("td"), heads)),
    element("tbody", {}, body),
  );
}

function tags(run, searched, whole) {
  const found = [];
  const name = (whole ?? searched).fingerprint;
  if (name && name === run.pick) found.push(["pick", "the pick"]);
  if (run.runners_up.includes(name)) found.push(["", "next best"]);
  if (whole) found.push([whole.role, ROLES[whole.role]]);
  if (whole?.naive) found.push(["naive", whole.naive]);
  if (!whole && searched) found.push(["", searched.state]);
  const mates = known(whole?.tie) ? run.front.filter((row) => row.tie === whole.tie).length - 1 : 0;
  if (mates > 0) found.push(["", `tied with ${mates} inside the noise`]);
  return found.map(([kind, text]) => element("span", { class: `tag ${kind}` }, text));
}

/** Shows one candidate in the box beside the chart. */
function showDetails(run, box, searched, whole) {
  const row = whole ?? searched;
  const about = element("p", {});
  for (const tag of tags(run, searched, whole)) about.append(tag, " ");
  const facts = [
    row.fingerprint,
    known(searched?.number) ? `trial ${searched.number}` : null,
    row.changes ? `changes ${row.changes}` : null,
  ].filter(known);
  const parts = [
    element("h3", { class: planName(row).length > 120 ? "long" : null }, planName(row)),
    about,
    drawPlan(run, row.picture),
    element("p", { class: "dim" }, facts.join(", ")),
  ];
  if (searched?.cause) parts.push(element("p", { class: "cause" }, searched.cause));
  if (known(row.quality)) parts.push(numbersTable(run, searched && known(searched.quality) ? searched : null, whole));
  if (row.kernels) parts.push(element("p", {}, `Kernels that ran: ${row.kernels}.`));
  if (whole?.warnings) parts.push(element("p", { class: "cause" }, `Measured under doubt: ${whole.warnings}.`));
  const sources =
    whole && (whole.split === "search" || !searched)
      ? [whole]
      : [{ split: "search", ...searched }, whole].filter(known);
  const keep = ["csv", "json"].map((form) => {
    const button = element("button", { type: "button", class: "quiet" }, form.toUpperCase());
    button.addEventListener("click", () =>
      download(sources, `paring-${row.fingerprint ?? `trial-${row.number}`}`, form),
    );
    return button;
  });
  parts.push(element("p", { class: "downloads" }, "Its numbers: ", keep));
  box.replaceChildren(...parts);
}
