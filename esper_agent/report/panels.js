// What there is to see of one epoch: the network, the decision that led to it, what its seeds are worth, its reward.

const SIZES = { GERMINATED: 14, TRAINING: 28, PRUNED: 28, EMBARGOED: 14, RESETTING: 10 };
const GROWN = 42; // pixels across of a seed that is in use
const MOST = 5; // choices of a head that are shown

function drawNetwork(replay, epoch) {
  const answers = replay.accuracy[epoch];
  const parts = data.slots.map((slot, number) => part(replay, epoch, slot, number));
  byId("network").replaceChildren(
    element("li", { class: "end" }, wire(element("span", { class: "box" }, "data"))),
    ...parts,
    element(
      "li",
      { class: "end answers" },
      wire(
        element("span", { class: "box" }, element("b", {}, answers === null ? "?" : percent(answers)), "right answers"),
      ),
    ),
  );
  const size = (name) => replay[name][epoch].toLocaleString("en");
  byId("size").textContent = replay.params ? `${size("host_params")} parameters, and ${size("params")} in seeds.` : "";
}

const wire = (...children) => element("div", { class: "wire" }, ...children);

function part(replay, epoch, { blocks: [first, last], channels }, slot) {
  const named = first === last ? `block ${last}` : `blocks ${first} to ${last}`;
  const box = element("span", { class: "box" }, element("b", {}, named), `${channels} channels`);
  const stage = data.stages[replay.stage[epoch][slot]];
  const fill = stage.used ? colour(replay.stage[epoch][slot]) : "var(--paper)";
  return element(
    "li",
    { class: "part" },
    wire(box),
    wire(element("span", { class: "node", style: { background: fill } })),
    seed(replay, epoch, slot),
  );
}

function seed(replay, epoch, slot) {
  const number = replay.stage[epoch][slot];
  const stage = data.stages[number];
  const empty = number === data.empty;
  const alpha = stage.used ? replay.alpha[epoch][slot] : 0;
  const size = `${empty ? 26 : (SIZES[stage.name] ?? GROWN)}px`;
  const tint = empty ? "var(--edge)" : colour(number);
  const body = element("i", {
    class: empty ? "empty" : "",
    style: { width: size, height: size, color: tint, "border-color": tint, "--alpha": String(alpha) },
  });
  const stem = element("div", { class: "stem", style: { background: empty ? "transparent" : tint } });
  const facts = [element("b", {}, `slot ${slot}: ${empty ? "empty" : blueprint(replay, epoch, slot)}`)];
  if (empty) facts.push("room for a seed");
  else facts.push(element("strong", {}, stage.name), element("div", {}, stage.meaning));
  if (stage.used) {
    const width = `${100 * alpha}%`;
    facts.push(
      element(
        "div",
        { class: "alpha" },
        "alpha",
        element("span", { "aria-hidden": "true" }, element("i", { style: { width, background: tint } })),
        alpha.toFixed(2),
      ),
    );
    const points = worth(replay, epoch, slot);
    if (points !== undefined) facts.push(element("div", { class: felt(points) }, `worth ${signed(points, 1)} points`));
  }
  return element("div", { class: "seed" }, stem, element("div", { class: "body" }, body), ...facts);
}

// The decision

function drawDecision(replay, epoch) {
  if (epoch === 0) return byId("decision").replaceChildren(element("p", {}, "None: this is the untrained host."));
  const t = epoch - 1;
  const refused = replay.executed[epoch] ? "" : " It was not legal: the host waited instead.";
  const said = element("p", {}, element("b", {}, replay.said[t]), `.${refused}`);
  const parts = [said];
  if (replay.chances) parts.push(opTable(replay, t), expected(replay, t), heads(replay, t));
  else if (replay.chosen) parts.push(drawn(replay, t));
  else parts.push(element("p", {}, "This policy follows a script: it tells neither probabilities nor values."));
  return byId("decision").replaceChildren(...parts);
}

function opTable(replay, t) {
  const chances = replay.chances[t][data.op];
  const values = replay.values[t].length > 1 ? replay.values[t] : null;
  const all = values ? replay.values.flat() : [];
  const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
  const rows = data.heads[data.op].choices.map((name, op) => {
    const legal = chances[op] >= 0;
    const chance = legal ? level(chances[op], share(chances[op])) : "not legal";
    const value = values ? [level((values[op] - low) / (high - low || 1), signed(values[op], 2))] : [];
    const chosen = op === replay.action[t][data.op];
    return { cells: [chosen ? `✓ ${name}` : name, chance, ...value], kind: chosen ? "chosen" : legal ? "" : "idle" };
  });
  return table("Every op", ["op", "probability", ...(values ? ["Q(s, op)"] : [])], rows);
}

function expected(replay, t) {
  const meaning = "the return that the critic expects from here on, discounted and with shaping";
  if (replay.values[t].length > 1) return element("p", {}, `Q(s, op): ${meaning}, if this op is taken.`);
  return element("p", {}, `V(s) ${signed(replay.values[t][0], 2)}: ${meaning}. This critic judges states, not ops.`);
}

// The other heads: those that matter for the op with their choices, and what the rest are held at.
function heads(replay, t) {
  const op = replay.action[t][data.op];
  const matters = data.heads.map((head, number) => number !== data.op && data.matters[op][number] === 1);
  const shown = data.heads.flatMap((head, number) => (matters[number] ? [choices(replay, t, head, number)] : []));
  const idle = data.heads.filter((head, number) => number !== data.op && !matters[number]);
  const name = data.heads[data.op].choices[op];
  const held = `Of no consequence for ${name}, and held at their canonical values: ${idle.map((head) => head.name).join(", ")}.`;
  const given = `Probabilities given ${name}, and given the slot where a head depends on it.`;
  return together(
    ...(shown.length ? [element("p", { class: "idle" }, given)] : []),
    element("div", { class: "heads" }, ...shown),
    ...(idle.length ? [element("p", { class: "idle" }, held)] : []),
  );
}

function choices(replay, t, head, number) {
  const legal = replay.chances[t][number].flatMap((chance, choice) => (chance >= 0 ? [{ chance, choice }] : []));
  legal.sort((a, b) => b.chance - a.chance);
  const rows = legal.slice(0, MOST).map(({ chance, choice }) => {
    const chosen = choice === replay.action[t][number];
    const name = head.choices[choice];
    return {
      cells: [chosen ? `✓ ${name}` : name, level(chance, share(chance))],
      kind: chosen ? "chosen" : "",
    };
  });
  const more = legal.length > MOST ? [element("p", {}, `and ${legal.length - MOST} less likely`)] : [];
  const title = legal.length > 1 ? head.name : `${head.name} (no other choice)`;
  return element("div", {}, element("h4", {}, title), table(head.name, ["choice", "probability"], rows), ...more);
}

function drawn(replay, t) {
  const op = replay.action[t][data.op];
  const rows = data.heads.flatMap((head, number) =>
    data.matters[op][number]
      ? [{ cells: [head.name, head.choices[replay.action[t][number]], share(replay.chosen[t][number])] }]
      : [],
  );
  const note = "In training the probability of what was drawn is kept, and no other.";
  return together(table("What was drawn", ["head", "drawn", "probability"], rows), element("p", {}, note));
}

// What the seeds are worth

function drawWorth(replay, epoch) {
  const place = byId("worth");
  const used = inUse(replay, epoch);
  if (!replay.coalition) {
    const note = "Not kept of training episodes: esper report evaluates held-out ones and keeps it.";
    return place.replaceChildren(element("p", {}, note));
  }
  if (score(replay, epoch, []) === undefined) {
    return place.replaceChildren(element("p", {}, "Not measured in this epoch (counterfactual_interval)."));
  }
  if (!used.length) {
    const alone = `No seed is in use: the network is the host alone, ${scored(replay, score(replay, epoch, []))}.`;
    return place.replaceChildren(element("p", {}, alone));
  }
  return place.replaceChildren(coalitionTable(replay, epoch, used), shapleyTable(replay, epoch, used));
}

function coalitionTable(replay, epoch, used) {
  const permanent = used.filter((slot) => replay.stage[epoch][slot] === data.permanent);
  const subsets = used.reduce((sets, slot) => sets.concat(sets.map((set) => [...set, slot])), [[]]);
  subsets.sort((a, b) => a.length - b.length || a[0] - b[0]);
  const rows = subsets.flatMap((slots) => {
    const value = score(replay, epoch, slots);
    if (value === undefined) return [];
    const marks = [];
    if (slots.length === used.length) marks.push("the network now");
    if (permanent.length && String(slots) === String(permanent)) marks.push("what is permanent");
    const named = slots.length ? `with slot${slots.length > 1 ? "s" : ""} ${slots.join(" + ")}` : "the host alone";
    return [
      {
        cells: [marks.length ? `${named} (${marks.join(", ")})` : named, level(value / 100, scored(replay, value), "accuracy")],
        kind: marks.length ? "chosen" : "",
      },
    ];
  });
  return table("Every coalition of seeds", ["switched on", isAccuracy(replay) ? "accuracy" : "score"], rows);
}

function shapleyTable(replay, epoch, used) {
  const values = replay.shapley[epoch];
  const total = sum(used.map((slot) => values[slot]));
  const most = Math.max(1, ...used.map((slot) => Math.abs(values[slot])));
  const rows = used.map((slot) => {
    const lost = worth(replay, epoch, slot);
    const points = element("span", { class: felt(values[slot]) }, signed(values[slot], 1));
    return {
      cells: [
        `slot ${slot}: ${blueprint(replay, epoch, slot)}`,
        level(Math.abs(values[slot]) / most, points, values[slot] < 0 ? "loss" : ""),
        lost === undefined ? "" : signed(lost, 1),
      ],
    };
  });
  rows.push({ cells: ["together", signed(total, 1), ""], kind: "chosen" });
  const note =
    "The Shapley share of a seed is what it adds in points, averaged over all orders in which the seeds could be " +
    "switched on: the shares add up to the network now, less the host alone.";
  return together(
    table("Shapley shares", ["seed", "Shapley share", "lost without it"], rows),
    element("p", {}, note),
  );
}

// The reward

function drawTerms(replay, epoch) {
  const rows = Object.entries(replay.terms).map(([name, term], number) => ({
    cells: [
      keyEntry(termColour(number), name),
      epoch === 0 ? "" : signed(term[epoch - 1]),
      signed(sum(term.slice(0, epoch))),
      data.terms[name] ?? "",
    ],
    kind: epoch > 0 && Math.abs(term[epoch - 1]) >= 5e-4 ? "" : "idle",
  }));
  const all = Object.values(replay.terms).map((term) => term.slice(0, epoch));
  rows.push({
    cells: ["reward", epoch === 0 ? "" : signed(reward(replay, epoch)), signed(sum(all.flat())), "what it learns from"],
    kind: "chosen",
  });
  if (replay.objective) {
    const paid = replay.objective.slice(0, epoch + 1);
    const [now, soFar] = [epoch === 0 ? "" : signed(paid[epoch]), signed(sum(paid))];
    const names = data.objective.filter((name) => name in replay.terms).join(", ");
    const meaning = `what counts${names ? `: ${names}` : ""}`;
    rows.push({ cells: ["of which objective", now, soFar, meaning], kind: "chosen" });
  }
  byId("terms").replaceChildren(table("Terms of the reward", ["term", "this epoch", "so far", "for what"], rows));
}
