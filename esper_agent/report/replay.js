// The replay: which episode and epoch are shown, and what moves them. Drawing is left to panels.js.

const data = JSON.parse(document.getElementById("data").textContent);
const PACE = 600; // milliseconds that an epoch stands while it plays

const player = {
  replay: null,
  epoch: 0,
  timer: null,

  get last() {
    return this.replay.action.length;
  },

  choose(number) {
    this.pause();
    this.replay = data.replays[number];
    byId("episode").value = String(number);
    byId("epoch").max = String(this.last);
    for (const [place, table] of [...byId("tables").children].entries()) table.hidden = place !== number;
    drawCharts(this.replay);
    this.go(0);
  },

  go(epoch) {
    this.epoch = Math.max(0, Math.min(this.last, epoch));
    const scrubber = byId("epoch");
    scrubber.value = String(this.epoch);
    const told = `epoch ${this.epoch} of ${this.last}`;
    scrubber.setAttribute("aria-valuetext", told);
    byId("now").textContent = told;
    byId("summary").textContent = sentence(this.replay, this.epoch);
    drawNetwork(this.replay, this.epoch);
    drawDecision(this.replay, this.epoch);
    drawWorth(this.replay, this.epoch);
    drawTerms(this.replay, this.epoch);
    moveCursors(this.epoch);
  },

  // While it plays, a screen reader is not told of every epoch: it could not keep up.
  play() {
    if (this.epoch === this.last) this.go(0);
    byId("summary").setAttribute("aria-live", "off");
    this.timer = setInterval(() => {
      this.go(this.epoch + 1);
      if (this.epoch === this.last) this.pause();
    }, PACE);
    byId("play").textContent = "Pause";
  },

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    byId("summary").setAttribute("aria-live", "polite");
    byId("play").textContent = "Play";
  },

  toggle() {
    if (this.timer === null) this.play();
    else this.pause();
  },
};

function sentence(replay, epoch) {
  const parts = [`Epoch ${epoch} of ${replay.action.length}.`];
  if (epoch === 0) parts.push("Nothing has been done yet.");
  else {
    parts.push(`${capital(replay.said[epoch - 1])}${replay.executed[epoch] ? "" : " (not legal: it waited instead)"}.`);
    if (replay.rolled_back && replay.rolled_back[epoch]) parts.push("The host diverged and was rolled back.");
  }
  const accuracy = replay.accuracy[epoch];
  if (accuracy !== null) {
    const kept = replay.committed ? `, ${percent(replay.committed[epoch])} with the permanent seeds alone` : "";
    parts.push(`${percent(accuracy)} of the validation data are right${kept}.`);
  }
  replay.stage[epoch].forEach((number, slot) => {
    const stage = data.stages[number];
    if (number === data.empty) return;
    const alpha = stage.used ? `, alpha ${replay.alpha[epoch][slot].toFixed(2)}` : "";
    parts.push(`Slot ${slot}: ${blueprint(replay, epoch, slot)} is ${stage.name}${alpha}.`);
  });
  if (epoch > 0) parts.push(`Reward ${signed(reward(replay, epoch))}.`);
  if (epoch === replay.action.length && replay.test) {
    const right = replay.test[epoch];
    parts.push(right < 0 ? "The episode was cut short here." : `The end: ${percent(right)} of the test data are right.`);
    parts.push(`Objective return ${replay.total.toFixed(2)}.`);
  }
  return parts.join(" ");
}

function startReplay() {
  if (!data.replays.length) return;
  byId("player").hidden = false;
  byId("episode").addEventListener("change", (event) => player.choose(Number(event.target.value)));
  byId("epoch").addEventListener("input", (event) => {
    player.pause();
    player.go(Number(event.target.value));
  });
  byId("play").addEventListener("click", () => player.toggle());
  byId("player").addEventListener("keydown", (event) => {
    // A button, a choice and a summary have a use for the space bar of their own.
    if (event.key !== " " || event.target.closest("button, select, summary")) return;
    event.preventDefault();
    player.toggle();
  });
  let width = byId("timeline").clientWidth;
  new ResizeObserver(() => {
    if (byId("timeline").clientWidth === width) return;
    width = byId("timeline").clientWidth;
    drawCharts(player.replay);
    moveCursors(player.epoch);
  }).observe(byId("timeline"));
  drawKeys();
  player.choose(0);
}
