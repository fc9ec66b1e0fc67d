// The list of episodes: filters, sorting, and the way from a row to its replay.

function startEpisodes() {
  const table = byId("episodes");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({
    row,
    policy: row.cells[0].textContent,
    result: Number(row.cells[2].textContent),
    words: row.textContent.toLowerCase(),
  }));
  const fields = ["policy", "least", "most", "words"].map(byId);

  function filter() {
    const [policy, least, most, words] = fields.map((field) => field.value);
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const episode of rows) {
      const shown =
        (!policy || episode.policy === policy) &&
        (least === "" || episode.result >= Number(least)) &&
        (most === "" || episode.result <= Number(most)) &&
        wanted.every((word) => episode.words.includes(word));
      episode.row.hidden = !shown;
      count += shown;
    }
    byId("count").textContent = `${count} of ${rows.length} episodes`;
  }

  function sort(header, column) {
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const numeric = header.dataset.kind === "number";
    const value = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent;
    const keyed = rows.map(({ row }) => [numeric ? Number(value(row)) : value(row), row]);
    keyed.sort(([a], [b]) => (numeric ? a - b : a.localeCompare(b)) * (up ? 1 : -1));
    body.append(...keyed.map(([, row]) => row));
  }

  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (!header.dataset.kind) return;
    const button = element("button", { type: "button" }, header.textContent);
    button.addEventListener("click", () => sort(header, column));
    header.replaceChildren(button);
  });
  for (const field of fields) field.addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-replay]");
    if (!button) return;
    player.choose(Number(button.dataset.replay));
    byId("watch").scrollIntoView();
    byId("epoch").focus({ preventScroll: true });
  });
  for (const button of body.querySelectorAll("[data-replay]")) button.hidden = false;
  byId("filters").hidden = false;
  filter();
}

startReplay();
startEpisodes();
