// The smaller figures: latencies twice, hypervolume over time, the fronts of several runs.

/** Latencies of the search against those measured whole, with the line on which they agree. */
async function drawGuesses(box, rows) {
  const Plotly = await library;
  const ends = [0, 1.05 * Math.max(...rows.flatMap((row) => [row.searched_high, row.measured_high]))];
  const line = {
    x: ends,
    y: ends,
    mode: "lines",
    line: { color: colour("faint"), dash: "dot", width: 1 },
    hoverinfo: "skip",
    showlegend: false,
  };
  const traces = [true, false].map((predicted) => {
    const own = rows.filter((row) => row.predicted === predicted);
    const paint = colour(predicted ? "accent" : "naive");
    return {
      x: own.map((row) => row.searched_ratio),
      y: own.map((row) => row.measured_ratio),
      mode: "markers",
      name: predicted ? "predicted" : "measured briefly",
      marker: { color: paint, size: 9 },
      error_x: bars(own, "searched_ratio", "searched_low", "searched_high", paint),
      error_y: bars(own, "measured_ratio", "measured_low", "measured_high", paint),
      hovertext: own.map((row) => `${plainText(row.plan)}<br>off by ${shown(100 * row.error, 1, { sign: true })} %`),
      hoverinfo: "text",
    };
  });
  await Plotly.react(
    box,
    [line, ...traces.filter((trace) => trace.x.length)],
    frame({ x: "in the search, of the original's", y: "measured whole, of the original's", hovermode: "closest" }),
    CONFIG,
  );
}

async function drawGrowth(box, rows) {
  const Plotly = await library;
  const told = rows.map(
    (row) =>
      `${row.trials} trials${known(row.minutes) ? `, ${shown(row.minutes, 1)} min` : ""}` +
      `<br>hypervolume ${shown(row.hypervolume, 4)}`,
  );
  const trace = {
    x: rows.map((row) => row.trials),
    y: rows.map((row) => row.hypervolume),
    mode: "lines+markers",
    line: { shape: "hv", color: colour("accent"), width: 2 },
    marker: { size: 5 },
    hovertext: told,
    hoverinfo: "text",
  };
  const layout = frame({ x: "trials done", y: "hypervolume", legend: false });
  await Plotly.react(box, [trace], { ...layout, yaxis: { ...layout.yaxis, rangemode: "tozero" } }, CONFIG);
}

/** The fronts of all runs in one chart, each with its pick ringed. */
async function drawBeside(box, across, up) {
  const Plotly = await library;
  const paints = ["accent", "naive", "good", "broken", "pick", "dim"].map(colour);
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
  const traces = DATA.runs.flatMap((run, number) => {
    const members = run.points.filter((point) => point.role === "front" && known(point[across]) && known(point[up]));
    const ordered = [...members].sort((one, other) => one[across] - other[across]);
    const [paint, symbol] = [paints[number % paints.length], symbols[number % symbols.length]];
    const view = {
      across,
      up,
      marker: "size_mb",
      largest: Math.max(...members.map((point) => point.size_mb), 1),
      metric: run.metric,
    };
    const trace = pointTrace(ordered, view, plainText(run.label), paint, { symbol });
    const picked = ring(
      ordered.filter((point) => point.fingerprint === run.pick),
      view,
      `pick ${number}`,
      paint,
      12,
    );
    return [trace, { ...picked, showlegend: false }];
  });
  const metrics = [...new Set(DATA.runs.map((run) => run.metric))].join(" or ");
  const layout = frame({
    x: AXES[across],
    y: up === "quality" ? metrics : `${metrics} against each run's original`,
    hovermode: "closest",
  });
  await Plotly.react(
    box,
    traces.filter((trace) => trace.x.length),
    layout,
    CONFIG,
  );
}
