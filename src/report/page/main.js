// Puts the page together; theme, keys, navigation.
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  for (const c of charts) if (c.u) { c.u.redraw(false); c.values(null); }
  for (const h of heats) h.show();
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (e) => setTheme(e.matches ? "dark" : "light"));
const otherTheme = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

overview();
curveSection();
{
  const grid = el("div", {class: "grid"});
  expertCurves(grid);
  expertMaps(grid);
  if (grid.children.length) section("experts", "Experts", grid);
}
timeSection();
memorySection();
eventSection();
settingSection();
environmentSection();
otherCurves();

for (const c of charts) c.draw();
for (const h of heats) h.show();

const nav = document.getElementById("nav");
const sections = [...document.querySelectorAll("main > section")];
const links = sections.map((s) => el("a", {href: "#" + s.id}, s.dataset.title));
nav.append(...links);
const mark = () => {
  let here = 0;
  sections.forEach((s, i) => { if (s.getBoundingClientRect().top < 140) here = i; });
  if (innerHeight + scrollY > document.body.scrollHeight - 4 && scrollY > 0) here = sections.length - 1;
  links.forEach((a, i) => a.classList.toggle("here", i === here));
};
addEventListener("scroll", mark, {passive: true});
mark();

let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => {
    for (const c of charts) c.resize();
    for (const h of heats) h.heat.paint();
  });
});

const kKeys = [["0", "all steps"], ["+  −", "zoom in, out"], ["←  →", "earlier, later steps"], ["s  S", "smooth less, more"], ["l", "loss on a logarithmic scale"], ["t", "light or dark"], ["?", "this list"],
  ["drag", "zoom into steps, in all plots"], ["double click", "all steps"]];
const dialog = document.getElementById("keys");
dialog.append(el("h2", {}, "Keys"), table([{head: ""}, {head: ""}], kKeys.map(([k, what]) => [el("kbd", {}, k), what])),
  el("p", {style: "text-align:right;margin:14px 0 0"}, el("button", {class: "tool", onclick: () => dialog.close()}, "Close")));
document.getElementById("help").onclick = () => dialog.showModal();
document.getElementById("theme").onclick = otherTheme;
document.getElementById("reset").onclick = () => zoomTo(null);

addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || /^(input|select|textarea)$/i.test(e.target.tagName)) return;
  const [a, b] = shown(), width = b - a;
  const keys = {
    "0": () => zoomTo(null), "+": () => zoomTo(a + width / 4, b - width / 4), "=": () => zoomTo(a + width / 4, b - width / 4),
    "-": () => zoomTo(a - width / 2, b + width / 2), "ArrowLeft": () => range && zoomTo(a - width / 4, b - width / 4),
    "ArrowRight": () => range && zoomTo(a + width / 4, b + width / 4), "s": () => setSmoothing(smoothing - 0.05), "S": () => setSmoothing(smoothing + 0.05),
    "l": () => document.querySelector(`[aria-label="Scale of the loss"] button:nth-child(${logLoss ? 1 : 2})`)?.click(), "t": otherTheme,
    "?": () => (dialog.open ? dialog.close() : dialog.showModal()),
  };
  if (!keys[e.key]) return;
  e.preventDefault();
  keys[e.key]();
});
