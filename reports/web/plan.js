// A plan as a picture: columns are the original's layers, rows the kinds of Linears, colours bits, widths ranks.

const CELL = { width: 34, height: 15, gap: 4, left: 118, top: 22 };
const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The colour of a number of bits. */
function bitsColour(weights) {
  if (weights === null) return "var(--bits-float)";
  const step = [2, 3, 4, 6, 8, 16].find((bits) => weights <= bits) ?? 16;
  return `var(--bits-${step})`;
}

/** One Linear: as wide as its rank, in the colour of its bits; pale in its lower half where its inputs stay float. */
function drawCell(treatment, x, y, width, title) {
  const group = drawn("g", {});
  const wide = Math.max(4, width * treatment.width);
  const left = x + (width - wide) / 2;
  const height = CELL.height - 2;
  group.append(drawn("title", {}, title));
  group.append(
    drawn("rect", {
      x: left,
      y,
      width: wide,
      height,
      rx: 2,
      class: treatment.weights === null ? "float" : "bits",
      style: `fill: ${bitsColour(treatment.weights)}`,
    }),
  );
  if (treatment.weights !== null && treatment.inputs === null && treatment.weights < 16) {
    group.append(
      drawn("rect", { class: "half", x: left + 1, y: y + height / 2, width: wide - 2, height: height / 2 - 1 }),
    );
  }
  return group;
}

/** One slot: a column of its Linears in a frame, or a dashed frame where its layer was dropped. */
function drawBlock([start, stop, label, cells], kinds, treatments, stack) {
  const group = drawn("g", { class: "block" });
  const x = CELL.left + start * (CELL.width + CELL.gap);
  const width = (stop - start) * (CELL.width + CELL.gap) - CELL.gap;
  const height = Math.max(1, kinds.length) * CELL.height + 2;
  const merged = stop - start > 1 && label !== null;
  const spoken = merged ? `${label}: stands for layers ${start} to ${stop - 1}` : `layer ${label}`;
  const frame = label === null ? "gone" : merged ? "merged" : "frame";
  group.dataset.state = label === null ? "dropped" : merged ? "merged" : "kept";
  if (cells !== null && !kinds.length) group.append(drawCell(treatments[0], x, CELL.top + 1, width, spoken));
  const box = drawn("rect", { class: frame, x: x - 1, y: CELL.top - 1, width: width + 2, height: height + 1, rx: 4 });
  box.append(drawn("title", {}, label === null ? `layer ${start} dropped` : spoken));
  group.append(box);
  group.append(
    drawn(
      "text",
      { x: x + width / 2, y: CELL.top - 7, "text-anchor": "middle", class: label === null ? "gone-text" : "" },
      label ?? String(start),
    ),
  );
  if (label === null) {
    group.append(
      drawn(
        "text",
        { class: "gone-text", x: x + width / 2, y: CELL.top + height / 2 + 4, "text-anchor": "middle" },
        "×",
      ),
    );
    return group;
  }
  cells.forEach((number, row) => {
    if (!kinds.length) return;
    const treatment = treatments[number];
    const title = `${stack}, ${spoken}, ${kinds[row]}: ${treatment.text}`;
    group.append(drawCell(treatment, x + 1, CELL.top + 1 + row * CELL.height, width - 2, title));
  });
  return group;
}

function drawStack(run, name, blocks) {
  const kinds = run.kinds[name];
  const width = CELL.left + run.layers[name] * (CELL.width + CELL.gap) + 4;
  const height = CELL.top + Math.max(1, kinds.length) * CELL.height + 8;
  const gone = blocks.filter(([, , label]) => label === null).length;
  const label = `${name}: ${blocks.length - gone} layers stand, ${gone} dropped`;
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  picture.append(drawn("text", { x: 0, y: CELL.top - 7, "font-weight": 600 }, name));
  kinds.forEach((kind, row) => {
    const y = CELL.top + row * CELL.height + 11;
    picture.append(
      drawn("text", { class: "kind", x: CELL.left - 8, y, "text-anchor": "end" }, kind.replaceAll("_", " ")),
    );
  });
  for (const block of blocks) picture.append(drawBlock(block, kinds, run.treatments, name));
  return picture;
}

function swatch(treatment) {
  const picture = drawn("svg", { width: 22, height: CELL.height, "aria-hidden": "true" });
  picture.append(drawCell(treatment, 0, 1, 22, treatment.text));
  return picture;
}

/** The picture of a plan, with a legend of what it uses; "title" of every block says the same in words. */
function drawPlan(run, picture) {
  const box = element("div", { class: "picture" });
  if (!picture) return box;
  for (const [name, blocks] of picture.stacks) box.append(drawStack(run, name, blocks));
  const used = new Set([...picture.stacks.flatMap(([, blocks]) => blocks.flatMap(([, , , cells]) => cells ?? []))]);
  const legend = element("div", { class: "legend" });
  for (const number of [...used].sort((one, other) => one - other)) {
    legend.append(element("span", {}, swatch(run.treatments[number]), run.treatments[number].text));
  }
  for (const [part, number] of picture.outside) {
    legend.append(
      element(
        "span",
        { "data-outside": part },
        swatch(run.treatments[number]),
        `${part.replaceAll("_", " ")} ${run.treatments[number].text}`,
      ),
    );
  }
  if (picture.weights) legend.append(element("span", {}, `weights ${picture.weights}`));
  box.append(legend);
  return box;
}
