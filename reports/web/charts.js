// The charts, drawn by Plotly, which is unpacked only after the page has been painted.

const AXES = {
  latency_ms: "latency of one request, ms",
  speedup: "times as fast as the original",
  size_mb: "stored, MB",
  memory_mb: "peak memory, MB",
};
const MARKERS = { size_mb: "MB stored", memory_mb: "MB at the peak" };
const SMALLEST = 8;
const LARGEST = 26;
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

/** Plotly, once it is there. */
const library = (async () => {
  await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted, 0)));
  const packed = document.getElementById("library");
  const response = await fetch(`data:application/gzip;base64,${packed.textContent}`);
  const code = await new Response(response.body.pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(element("script", {}, code));
  packed.remove();
  return window.Plotly;
})();

function frame({ x, y, legend = true, ...more }) {
  const [ink, line] = [colour("ink"), colour("line")];
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    font: { family: "system-ui, sans-serif", color: ink, size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 16, t: 16, b: 40 },
    xaxis: { ...axis, title: { text: plainText(x), standoff: 10 } },
    yaxis: { ...axis, title: { text: plainText(y), standoff: 8 } },
    showlegend: legend,
    legend: {
      orientation: "h",
      y: 1.02,
      yanchor: "bottom",
      x: 0,
      font: { size: innerWidth < 600 ? 11 : 13 },
      itemsizing: "constant",
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("accent") },
    hoverlabel: { align: "left", bgcolor: colour("raised"), bordercolor: colour("faint"), font: { color: ink } },
    ...more,
  };
}

/** Distances to both ends of an interval, as Plotly wants them; none where an end is not known. */
function bars(points, middle, low, high, paint) {
  const reach = (point, end) => (known(point[end]) && known(point[middle]) ? Math.abs(point[end] - point[middle]) : 0);
  return {
    type: "data",
    symmetric: false,
    thickness: 1,
    width: 3,
    color: paint,
    array: points.map((point) => reach(point, high)),
    arrayminus: points.map((point) => reach(point, low)),
  };
}

function sizes(points, marker, largest, grow = 0) {
  return points.map(
    (point) => grow + SMALLEST + (LARGEST - SMALLEST) * Math.sqrt(Math.min(1, (point[marker] ?? 0) / largest)),
  );
}

function hover(point, metric) {
  const lines = [
    planName(point).replaceAll("; ", "\n"),
    `${metric} ${shown(point.quality, 4)} (drop ${shown(point.drop, 4, { sign: true })})`,
  ];
  if (point.naive) lines.unshift(point.naive);
  if (known(point.latency_ms))
    lines.push(
      `${point.predicted ? "~" : ""}${shown(point.latency_ms, 2)} ms, ${shown(point.speedup, 2)} times as fast`,
    );
  if (known(point.memory_mb)) lines.push(`${shown(point.memory_mb, 0)} MB at the peak`);
  lines.push(`${shown(point.size_mb, 1)} MB stored, kernels: ${point.kernels}`);
  const folded = lines.flatMap((line) => line.match(/.{1,70}(\s|$)|\S+/g) ?? []);
  return folded.map(plainText).join("<br>");
}

/** The members that no other one beats in the two objectives drawn, as a staircase. */
function staircase(members, view) {
  const ordered = members
    .filter((point) => known(point[view.across]))
    .sort((a, b) => a[view.across] - b[view.across] || b[view.up] - a[view.up]);
  let best = -Infinity;
  const corners = ordered.filter((point) => point[view.up] > best && ((best = point[view.up]), true));
  return {
    x: corners.map((p) => p[view.across]),
    y: corners.map((p) => p[view.up]),
    mode: "lines",
    line: { shape: "hv", width: 1.5, color: colour("accent") },
    hoverinfo: "skip",
    showlegend: false,
  };
}

/** Bands through members that differ by no more than the noise. */
function tieBands(members, view) {
  const groups = new Map();
  for (const point of members) groups.set(point.tie, [...(groups.get(point.tie) ?? []), point]);
  return [...groups.values()]
    .filter((group) => group.length > 1)
    .map((group, number) => ({
      x: group.map((point) => point[view.across]),
      y: group.map((point) => point[view.up]),
      mode: "lines",
      line: { width: 30, color: colour("accent"), simplify: false },
      opacity: 0.14,
      hoverinfo: "skip",
      name: "tied inside the noise",
      legendgroup: "ties",
      showlegend: number === 0,
      meta: "tie",
    }));
}

function pointTrace(
  points,
  view,
  name,
  paint,
  { symbol = "circle", opacity = 1, withBars = true, text, place = "top center" } = {},
) {
  return {
    x: points.map((point) => point[view.across]),
    y: points.map((point) => point[view.up]),
    name,
    customdata: points.map((point) => point.fingerprint),
    mode: text ? "markers+text" : "markers",
    text,
    textposition: place,
    cliponaxis: !text,
    textfont: { size: 12, color: paint },
    marker: {
      symbol,
      color: paint,
      opacity,
      size: sizes(points, view.marker, view.largest),
      line: {
        width: symbol.includes("open") || symbol === "x-thin" ? 1.5 : 1,
        color: symbol === "x-thin" ? paint : colour("paper"),
      },
    },
    error_x:
      withBars && view.across === "latency_ms"
        ? bars(points, "latency_ms", "latency_low_ms", "latency_high_ms", paint)
        : undefined,
    error_y: withBars
      ? view.up === "quality"
        ? bars(points, "quality", "quality_low", "quality_high", paint)
        : bars(
            points.map((p) => ({
              ...p,
              low: known(p.drop_high) ? -p.drop_high : null,
              high: known(p.drop_low) ? -p.drop_low : null,
            })),
            "change",
            "low",
            "high",
            paint,
          )
      : undefined,
    hovertext: points.map((point) => hover(point, view.metric)),
    hoverinfo: "text",
  };
}

function ring(points, view, name, paint, grow) {
  return {
    x: points.map((point) => point[view.across]),
    y: points.map((point) => point[view.up]),
    mode: "markers",
    name,
    hoverinfo: "skip",
    marker: {
      symbol: "circle-open",
      color: paint,
      size: sizes(points, view.marker, view.largest, grow),
      line: { width: 3, color: paint },
    },
    showlegend: name !== "chosen",
    meta: name,
  };
}

/** Everything in the chart of the front, what matters most last. */
function frontTraces(points, view) {
  const by = (role) => points.filter((point) => point.role === role);
  const members = by("front");
  const base = points.filter((point) => point.is_baseline);
  const naive = points.filter((point) => point.naive);
  const split = view.split === "test" ? "searched, not on the front" : "beaten";
  const traces = [
    pointTrace(by("searched"), view, split, colour("faint"), { opacity: 0.35, withBars: false }),
    pointTrace(by("infeasible"), view, "breaks the budget", colour("broken"), {
      symbol: "x-thin",
      opacity: 0.7,
      withBars: false,
    }),
    pointTrace(by("beaten"), view, "beaten when measured whole", colour("faint"), { opacity: 0.85 }),
    ...tieBands(members, view),
    staircase(members, view),
    pointTrace(members, view, "front", colour("accent")),
    pointTrace(base, view, "the original", colour("ink"), {
      symbol: "diamond",
      text: base.map(() => "the original"),
      place: "bottom left",
    }),
    pointTrace(naive, view, "naive", colour("naive"), { symbol: "square", text: naive.map((point) => point.naive) }),
    ring(
      points.filter((point) => point.fingerprint === view.pick),
      view,
      "pick",
      colour("pick"),
      10,
    ),
    ring(
      points.filter((point) => point.fingerprint === view.chosen),
      view,
      "chosen",
      colour("ink"),
      18,
    ),
  ];
  return traces.filter((trace) => trace.x.length);
}

/** Lines at the limits of the budget that these two axes show. */
function budgetLines(budget, view) {
  const bounds = {
    latency_ms: budget.latency_seconds * 1e3,
    memory_mb: budget.memory_bytes / 1e6,
    size_mb: budget.size_bytes / 1e6,
  };
  const line = { color: colour("broken"), width: 1, dash: "dot" };
  const level = view.up === "quality" ? budget.min_quality : -budget.max_drop;
  return [
    ...(Number.isFinite(bounds[view.across])
      ? [{ type: "line", yref: "paper", x0: bounds[view.across], x1: bounds[view.across], y0: 0, y1: 1, line }]
      : []),
    ...(Number.isFinite(level) ? [{ type: "line", xref: "paper", y0: level, y1: level, x0: 0, x1: 1, line }] : []),
  ];
}

/** All points, and of their intervals what is within half the way they span: one wild interval hides nothing else. */
function rangeOf(traces, axis) {
  const drawn = traces.filter((trace) => trace.customdata);
  const values = drawn.flatMap((trace) => trace[axis]);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const reach = 0.5 * (most - least) || 0.1 * Math.abs(most) || 1;
  const ends = drawn.flatMap((trace) => {
    const [error, middle] = [trace[`error_${axis}`], trace[axis]];
    return error ? middle.flatMap((value, n) => [value - error.arrayminus[n], value + error.array[n]]) : middle;
  });
  const [low, high] = [Math.max(Math.min(...ends), least - reach), Math.min(Math.max(...ends), most + reach)];
  const room = 0.06 * (high - low) || 0.1;
  return [low - room, high + room];
}

async function drawFront(box, points, view, budget) {
  const Plotly = await library;
  const traces = frontTraces(points, view);
  const upward = view.up === "quality" ? `${view.metric}, ${view.split} split` : `${view.metric} against the original`;
  const layout = frame({
    x: AXES[view.across],
    y: upward,
    shapes: budgetLines(budget, view),
    hovermode: "closest",
    uirevision: `${view.across} ${view.up}`,
  });
  layout.xaxis.range = rangeOf(traces, "x");
  layout.yaxis.range = rangeOf(traces, "y");
  await Plotly.react(box, traces, layout, CONFIG);
}
