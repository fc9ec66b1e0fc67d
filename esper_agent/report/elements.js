// Elements and words: what everything else on the page is made of. Text is only ever set as text.
"use strict";

const byId = (name) => document.getElementById(name);

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [key, what] of Object.entries(value)) made.style.setProperty(key, what);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Rows of cells as a table; a row is { cells, kind }, and its first cell names it.
function table(caption, head, rows) {
  const columns = head.map((name) => element("th", { scope: "col" }, name));
  const lines = rows.map(({ cells: [first, ...rest], kind = "" }) =>
    element("tr", { class: kind }, element("th", { scope: "row" }, first), ...rest.map((cell) => element("td", {}, cell))),
  );
  return element(
    "table",
    {},
    element("caption", { class: "unseen" }, caption),
    element("thead", {}, element("tr", {}, ...columns)),
    element("tbody", {}, ...lines),
  );
}

// Words with a bar before them, as long as a share of the longest.
function level(share, words, kind = "") {
  const width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return together(
    element("span", { class: `level ${kind}`, "aria-hidden": "true" }, element("i", { style: { width } })),
    element("span", { class: "figure" }, words),
  );
}

function together(...children) {
  const fragment = document.createDocumentFragment();
  fragment.append(...children);
  return fragment;
}

const percent = (value) => `${value.toFixed(1)} %`;
const share = (value) => (value > 0 && value < 0.005 ? "< 1 %" : `${(100 * value).toFixed(0)} %`);
const signed = (value, digits = 3) => `${value < -(0.5 * 10 ** -digits) ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
const capital = (words) => words[0].toUpperCase() + words.slice(1);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const felt = (value) => (Math.abs(value) < 0.05 ? "" : value > 0 ? "good" : "bad");

const colour = (number) => `var(--${data.stages[number].name.toLowerCase()})`;
const reward = (replay, epoch) => sum(Object.values(replay.terms).map((term) => term[epoch - 1]));

function blueprint(replay, epoch, slot) {
  const number = replay.blueprint[epoch][slot];
  return number < 0 ? "empty" : data.blueprints[number];
}

// Score of the network with the seeds of these slots alone; undefined where it is not known.
// A slot without a seed in use makes no difference, so that any coalition that differs by such slots alone will do.
function score(replay, epoch, slots) {
  if (!replay.coalition) return undefined;
  const bits = (some) => some.reduce((mask, slot) => mask | (1 << slot), 0);
  const present = bits(inUse(replay, epoch));
  const column = data.coalitions.findIndex((mask) => (mask & present) === bits(slots));
  const value = replay.coalition[epoch][column];
  return value < 0 ? undefined : value;
}

// In classification the score is the accuracy; elsewhere it has no unit.
const isAccuracy = (replay) => String(replay.score) === String(replay.accuracy);
const scored = (replay, value) => (isAccuracy(replay) ? percent(value) : value.toFixed(1));

const inUse = (replay, epoch) =>
  replay.stage[epoch].flatMap((number, slot) => (data.stages[number].used ? [slot] : []));

// Points that would be lost without a seed: the value of all that are in use, less that of the others.
function worth(replay, epoch, slot) {
  const all = inUse(replay, epoch);
  const [having, lacking] = [all, all.filter((other) => other !== slot)].map((some) => score(replay, epoch, some));
  return having === undefined || lacking === undefined ? undefined : having - lacking;
}
