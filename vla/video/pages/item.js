const buttons = [...document.querySelectorAll(".keyframes button")];
const times = buttons.map((button) => Number(button.dataset.t));
const axis = document.getElementById("axis"), cursor = document.getElementById("cursor");
const [left, right, length, width] = ["left", "right", "length", "width"].map((name) => Number(axis.dataset[name]));
let now = 0;

function show(number) {
  now = Math.max(0, Math.min(buttons.length - 1, number));
  buttons.forEach((button, k) => button.setAttribute("aria-current", String(k === now)));
  const pictures = buttons[now].querySelectorAll("img");
  document.querySelectorAll("#views img").forEach((view, k) => { view.src = pictures[k].src; });
  document.getElementById("why").textContent = buttons[now].querySelector(".why").textContent;
  document.getElementById("clock").textContent = times[now].toFixed(2) + " s";
  const x = left + (right - left) * times[now] / length;
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
}

function jump(time) {
  show(times.reduce((best, t, k) => (Math.abs(t - time) < Math.abs(times[best] - time) ? k : best), 0));
}

buttons.forEach((button, k) => button.addEventListener("click", () => show(k)));
axis.addEventListener("click", (event) => {
  const box = axis.getBoundingClientRect();
  jump(((event.clientX - box.left) * width / box.width - left) / (right - left) * length);
});
document.querySelectorAll("tr[data-t], figure[data-t]").forEach((row) => row.addEventListener("click", () => {
  jump(Number(row.dataset.t));
  document.getElementById("views").scrollIntoView({ block: "center" });
}));
document.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(now + 1);
  if (event.key === "ArrowLeft") show(now - 1);
});
show(0);
