// The curves over a whole episode, with a cursor at the epoch that is shown. A click on them goes there.

const MARGIN = { left: 46, right: 12, top: 8, bottom: 28 };
const BAND = 20; // height of a slot's life, its gap included

const charts = []; // what moves the cursor of each

function drawCharts(replay) {
  charts.length = 0;
  drawTimeline(replay);
  drawReward(replay);
}

function moveCursors(epoch) {
  for (const move of charts) move(epoch);
}

function drawing(place, replay, height, label) {
  const width = Math.max(240, byId(place).clientWidth);
  const x = (epoch) => MARGIN.left + ((width - MARGIN.left - MARGIN.right) * epoch) / replay.action.length;
  const picture = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  const cursor = shape("line", { class: "cursor", y1: MARGIN.top, y2: height - MARGIN.bottom });
  charts.push((epoch) => {
    cursor.setAttribute("x1", x(epoch));
    cursor.setAttribute("x2", x(epoch));
  });
  const seek = (event) => {
    const { left, width: wide } = picture.getBoundingClientRect();
    const at = ((event.clientX - left) * width) / wide;
    player.pause();
    player.go(Math.round((at - x(0)) / (x(1) - x(0))));
  };
  picture.addEventListener("pointerdown", seek);
  picture.addEventListener("pointermove", (event) => event.buttons === 1 && seek(event));
  const step = Math.ceil(replay.action.length / Math.max(2, Math.floor(width / 70)) / 5) * 5;
  for (let epoch = 0; epoch <= replay.action.length; epoch += step)
    picture.append(shape("text", { x: x(epoch), y: height - 6, "text-anchor": "middle" }, String(epoch)));
  picture.append(shape("text", { x: 0, y: height - 6 }, "epoch"));
  byId(place).replaceChildren(picture);
  return { picture, cursor, x, width };
}

function gridLine({ picture, x, width }, y, words) {
  picture.append(
    shape("line", { class: "grid", x1: x(0), x2: width - MARGIN.right, y1: y, y2: y }),
    shape("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, words),
  );
}

// Accuracy over the epochs, and below it the life of every slot: coloured by stage, filled as high as alpha.
function drawTimeline(replay) {
  const slots = data.slots.length;
  const foot = MARGIN.top + 190;
  const height = foot + 10 + slots * BAND + MARGIN.bottom;
  const label = "Accuracy over the epochs, and the stage and alpha of every slot";
  const chart = drawing("timeline", replay, height, label);
  const y = (value) => foot - ((foot - MARGIN.top) * value) / 100;
  for (const value of [0, 25, 50, 75, 100]) gridLine(chart, y(value), `${value} %`);
  for (let slot = 0; slot < slots; slot += 1) chart.picture.append(...life(replay, slot, chart, foot + 10 + slot * BAND));
  const curves = [["committed", "var(--fossilized)", 2], ["accuracy", "var(--accuracy)", 2.5]];
  for (const [name, stroke, width] of curves) {
    if (!replay[name]) continue;
    const points = replay[name].flatMap((value, epoch) => (value === null ? [] : [`${chart.x(epoch)},${y(value)}`]));
    chart.picture.append(shape("polyline", { points: points.join(" "), fill: "none", stroke, "stroke-width": width }));
  }
  (replay.rolled_back ?? []).forEach((lost, epoch) => {
    const line = { x1: chart.x(epoch), x2: chart.x(epoch), y1: MARGIN.top, y2: foot, stroke: "var(--alarm)" };
    if (lost) chart.picture.append(shape("line", line, shape("title", {}, "The host diverged and was rolled back.")));
  });
  chart.picture.append(...decisions(replay, chart, y), chart.cursor);
}

function life(replay, slot, { x, width }, top) {
  const shapes = [
    shape("text", { x: MARGIN.left - 6, y: top + 13, "text-anchor": "end" }, `slot ${slot}`),
    shape("rect", { x: x(0), y: top, width: width - MARGIN.right - x(0), height: BAND - 3, fill: "var(--raised)" }),
  ];
  const full = BAND - 3;
  const rect = (from, to, high, number, opacity) =>
    shape("rect", { x: x(from), y: top + full - high, width: x(to) - x(from), height: high, fill: colour(number), opacity });
  let begun = 0;
  for (let epoch = 1; epoch <= replay.action.length; epoch += 1) {
    const number = replay.stage[epoch][slot];
    if (number === data.empty) continue;
    if (replay.stage[epoch - 1][slot] !== number || epoch === 1) begun = epoch - 1;
    if (replay.stage[epoch + 1]?.[slot] !== number) shapes.push(rect(begun, epoch, full, number, 0.4));
  }
  for (let epoch = 1; epoch <= replay.action.length; epoch += 1) {
    const number = replay.stage[epoch][slot];
    if (!data.stages[number].used) continue;
    // A little wider than the epoch, so that no gap shows between it and the next.
    const end = Math.min(epoch + 0.05, replay.action.length);
    shapes.push(rect(epoch - 1, end, full * replay.alpha[epoch][slot], number, 1));
  }
  return shapes;
}

// A dot on the curve wherever something was done, in the colour of the stage that it led to.
function decisions(replay, { x }, y) {
  return replay.action.flatMap((action, t) => {
    const value = replay.accuracy[t];
    if (action[data.op] === 0 || !replay.executed[t + 1] || value === null) return [];
    const fill = colour(replay.stage[t + 1][action[0]]);
    const title = shape("title", {}, `Before epoch ${t + 1}: ${replay.said[t]}`);
    return [shape("circle", { cx: x(t), cy: y(value), r: 4.5, fill, stroke: "var(--paper)" }, title)];
  });
}

// The terms of the reward stacked, epoch by epoch: what was paid above the line, what was charged below it.
function drawReward(replay) {
  const names = Object.keys(replay.terms);
  const height = 190;
  const foot = height - MARGIN.bottom;
  const stacks = replay.action.map((_, t) => {
    const values = names.map((name) => replay.terms[name][t]);
    return [sum(values.map((value) => Math.max(0, value))), sum(values.map((value) => Math.min(0, value)))];
  });
  const high = Math.max(0.1, ...stacks.map(([up]) => up));
  const low = Math.min(-0.1, ...stacks.map(([, down]) => down));
  const chart = drawing("reward", replay, height, "The reward of every epoch by its terms");
  const y = (value) => foot - ((foot - MARGIN.top) * (value - low)) / (high - low);
  for (const value of [high, 0, low]) gridLine(chart, y(value), value === 0 ? "0" : signed(value, 1));
  replay.action.forEach((_, t) => {
    let [up, down] = [0, 0];
    names.forEach((name, number) => {
      const value = replay.terms[name][t];
      if (Math.abs(value) < 5e-4) return;
      const [from, to] = value > 0 ? [up, (up += value)] : [down, (down += value)];
      const [left, wide] = [chart.x(t) + 0.5, chart.x(t + 1) - chart.x(t) - 1];
      const top = y(Math.max(from, to));
      const fill = termColour(number);
      chart.picture.append(shape("rect", { x: left, y: top, width: wide, height: Math.abs(y(from) - y(to)), fill }));
    });
  });
  chart.picture.append(chart.cursor);
  byId("reward-key").replaceChildren(
    ...names.map((name, number) => keyEntry(termColour(number), name)),
  );
}

const termColour = (number) => `var(--term${number % 10})`;

function keyEntry(background, words, thin = "") {
  return element("span", {}, element("i", { class: `swatch ${thin}`, style: { background } }), words);
}

function drawKeys() {
  const lines = [["var(--accuracy)", "accuracy"], ["var(--fossilized)", "with permanent seeds alone"]];
  const shown = ["GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED", "PRUNED"];
  const stages = data.stages.flatMap(({ name, meaning }, number) =>
    shown.includes(name) ? [keyEntry(colour(number), `${name}: ${meaning}`)] : [],
  );
  byId("timeline-key").replaceChildren(
    ...lines.map(([line, words]) => keyEntry(line, words, "thin")),
    ...stages,
    element("span", {}, "Slots are filled as high as alpha."),
  );
}
