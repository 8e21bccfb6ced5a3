// A click on a heading sorts the table by its column; undefined values are last in both directions.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const body = heading.closest("table").tBodies[0];
    const numeric = heading.dataset.numeric === "yes";
    const before = heading.getAttribute("aria-sort");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = before === first ? second : first;
    for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (!numeric) return sign * value(a).localeCompare(value(b), undefined, { numeric: true });
      const [x, y] = [Number(value(a)), Number(value(b))];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    };
    body.append(...[...body.rows].sort(compare));
  });
}

// The field above a table hides the rows whose name contains none of the typed words.
for (const field of document.querySelectorAll("input[data-filters]")) {
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    for (const row of document.getElementById(field.dataset.filters).querySelector("tbody").rows) {
      const name = row.cells[0].dataset.value.toLowerCase();
      row.hidden = words.length > 0 && !words.some((word) => name.includes(word));
    }
  });
}

// A tooltip shows a cell's unrounded value, seeds and provenance while the pointer or the focus is on it. Arrow keys
// move the focus from cell to cell, so that a table is a single stop of the Tab key.
const tip = document.getElementById("tip");
function showTip(cell) {
  tip.textContent = cell.dataset.tip;
  tip.hidden = false;
  const box = cell.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const below = box.bottom + tip.offsetHeight + 8 < innerHeight;
  tip.style.left = `${Math.max(8, left) + scrollX}px`;
  tip.style.top = `${(below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + scrollY}px`;
}
for (const table of document.querySelectorAll("table[data-tips]")) {
  const cellOf = (event) => event.target.closest("tbody td, tbody th");
  for (const type of ["mouseover", "focusin"]) {
    table.addEventListener(type, (event) => (cellOf(event) ? showTip(cellOf(event)) : (tip.hidden = true)));
  }
  for (const type of ["mouseleave", "focusout"]) table.addEventListener(type, () => { tip.hidden = true; });
  table.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === "Escape") tip.hidden = true;
    if (!cell || !(event.key in steps)) return;
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const [down, right] = steps[event.key];
    const next = rows[rows.indexOf(cell.parentNode) + down]?.cells[cell.cellIndex + right];
    if (!next) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    event.preventDefault();
  });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
