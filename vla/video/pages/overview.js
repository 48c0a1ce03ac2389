const body = document.querySelector("#items tbody");
document.querySelectorAll("th[data-sort]").forEach((head) => head.addEventListener("click", () => {
  const column = Number(head.dataset.sort), order = head.dataset.order === "up" ? -1 : 1;
  head.dataset.order = order === 1 ? "up" : "down";
  const value = (row) => Number(row.cells[column].dataset.v);
  [...body.rows].sort((a, b) => order * (value(a) - value(b))).forEach((row) => body.append(row));
}));
