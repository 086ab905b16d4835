// Brings the page to life: first what needs no charts, then the charts, run by run as they come into view.

function runView(article, run) {
  const control = (name) => article.querySelector(`[data-control="${name}"]`);
  const charts = Object.fromEntries(
    [...article.querySelectorAll("[data-chart]")].map((box) => [box.dataset.chart, box]),
  );
  const details = article.querySelector("[data-details]");
  const has = (name) => run.points.some((point) => known(point[name]));
  const view = {
    metric: run.metric,
    split: run.split,
    pick: run.pick,
    chosen: run.pick ?? run.points.find((point) => point.is_baseline)?.fingerprint,
    axes: new Set(run.axes),
  };

  const visible = () =>
    run.points.filter(
      (point) => point.is_baseline || (point.changes ?? "").split(" ").every((axis) => !axis || view.axes.has(axis)),
    );
  const ordered = (points) =>
    points.filter((point) => known(point[view.across])).sort((one, other) => one[view.across] - other[view.across]);

  function redraw() {
    if (!charts.front) return;
    view.largest = Math.max(...run.points.map((point) => point[view.marker] ?? 0));
    return drawFront(charts.front, visible(), view, run.budget);
  }
  function choose(row) {
    view.chosen = row.fingerprint;
    if (details) {
      showDetails(
        run,
        details,
        run.searched.get(row.fingerprint) ?? (known(row.number) ? row : null),
        run.whole.get(row.fingerprint),
      );
      for (const line of article.querySelectorAll("tr.chosen")) line.classList.remove("chosen");
      for (const button of article.querySelectorAll(`[data-select="${CSS.escape(row.fingerprint ?? "")}"]`))
        button.closest("table.front tr")?.classList.add("chosen");
    }
    return redraw();
  }
  const chooseByName = (name) => choose(run.whole.get(name) ?? run.searched.get(name));

  function fill(name, choices) {
    const select = control(name);
    for (const [value, title] of Object.entries(choices))
      if (has(value)) select.append(element("option", { value }, title));
    view[name] = select.value;
    select.addEventListener("change", () => {
      view[name] = select.value;
      redraw();
    });
  }
  function walk(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 };
    const among = ordered(
      visible().filter(
        (point) =>
          event.key === "ArrowUp" || event.key === "ArrowDown" || !["searched", "infeasible"].includes(point.role),
      ),
    );
    if (event.key === "Home" && run.pick) chooseByName(run.pick);
    else if (event.key in steps && among.length) {
      const place = among.findIndex((point) => point.fingerprint === view.chosen);
      const next = place < 0 ? 0 : (place + steps[event.key] + among.length) % among.length;
      chooseByName(among[next].fingerprint);
    } else return;
    event.preventDefault();
  }

  if (charts.front) {
    fill("across", { latency_ms: "latency", size_mb: "bytes stored", memory_mb: "peak memory" });
    fill("marker", MARKERS);
    view.up = control("up").value;
    control("up").addEventListener("change", () => {
      view.up = control("up").value;
      redraw();
    });
    for (const axis of run.axes) {
      const box = element("input", { type: "checkbox", checked: true, value: axis });
      box.addEventListener("change", () => {
        view.axes[box.checked ? "add" : "delete"](axis);
        redraw();
      });
      control("axes").append(element("label", {}, box, ` ${axis}`));
    }
    charts.front.addEventListener("keydown", walk);
    article.addEventListener("click", (event) => {
      const name = event.target.closest("[data-select]")?.dataset.select;
      if (name) {
        chooseByName(name);
        article.querySelector(".explore").scrollIntoView({ block: "nearest" });
      }
    });
  }
  for (const box of article.querySelectorAll("[data-picture]"))
    box.replaceChildren(drawPlan(run, run.whole.get(box.dataset.picture)?.picture));
  trialsTable(run, article, (row) => {
    choose(row);
    article.querySelector(".explore")?.scrollIntoView({ block: "nearest" });
  });
  if (view.chosen) chooseByName(view.chosen);

  let listens = false;
  async function drawAll() {
    if (charts.front) await redraw();
    if (charts.front && !listens) {
      charts.front.on("plotly_click", (event) => {
        const name = event.points.map((point) => point.customdata).find(known);
        if (name) chooseByName(name);
      });
      listens = true;
    }
    if (charts.guesses) await drawGuesses(charts.guesses, run.guesses);
    if (charts.growth) await drawGrowth(charts.growth, run.growth);
  }
  return drawAll;
}

const articles = [...document.querySelectorAll("article.run")];
const drawings = articles.map((article, number) => runView(article, DATA.runs[number]));
const tabs = [...document.querySelectorAll('[role="tab"]')];
const beside = document.querySelector('[data-chart="beside"]');
const besideControl = (name) => document.querySelector(`[data-control="beside-${name}"]`);

async function drawEverything() {
  try {
    if (beside) await drawBeside(beside, besideControl("across").value, besideControl("up").value);
    for (const [number, article] of articles.entries()) if (!article.hidden) await drawings[number]();
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    for (const box of document.querySelectorAll(".chart:empty"))
      box.append(
        element("p", { class: "caution" }, `The chart cannot be drawn here (${error}); the tables say the same.`),
      );
    throw error;
  }
}
function showRun(number) {
  articles.forEach((article, place) => {
    article.hidden = place !== number;
  });
  tabs.forEach((tab, place) => {
    tab.setAttribute("aria-selected", place === number);
    tab.tabIndex = place === number ? 0 : -1;
  });
  drawEverything();
}
tabs.forEach((tab, number) => {
  tab.addEventListener("click", () => showRun(number));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = (number + step + tabs.length) % tabs.length;
    tabs[next].focus();
    showRun(next);
    event.preventDefault();
  });
});
for (const name of ["across", "up"]) besideControl(name)?.addEventListener("change", drawEverything);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-download]");
  if (!button) return;
  const { download: table, form, run } = button.dataset;
  const rows = run === undefined ? DATA.beside[table] : DATA.runs[run][table];
  download(
    rows,
    run === undefined || DATA.runs.length === 1 ? `paring-${table}` : `paring-${Number(run) + 1}-${table}`,
    form,
  );
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawEverything);
drawEverything();
