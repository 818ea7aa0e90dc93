// Which curves there are, in which order.
const kShown = new Set(["loss", "validation_loss", "grad_norm", "lr", "tps", "tflops", "tflops_causal", "mfu", "mfu_causal",
  "step_seconds", "data_seconds", "memory_gib", "memory_percent", "tokens_seen"]);

function lossCard(grid) {
  const slider = el("input", {type: "range", min: 0, max: 0.99, step: 0.01, value: smoothing, "aria-label": "Smoothing"});
  const log = choice(["linear", "log"], 0, (i) => { logLoss = i === 1; chart.draw(); }, "Scale of the loss");
  const chart = card(grid, "Loss", "", {wide: true, height: 320, smooths: true, log: () => logLoss, makeLines() {
    const out = [];
    runs.forEach((r, i) => {
      out.push(...smoothLines(curve(r, "loss"), i, several ? r.summary.name : "loss", {named: !several}));
      const v = line(r, several ? i : 1, "validation_loss", {dots: true, label: several ? r.summary.name + ", validation" : "validation"});
      if (v) out.push(v);
    });
    return out;
  }}, el("label", {class: "range"}, "Smoothing", slider), log);
  slider.addEventListener("input", () => setSmoothing(+slider.value));
  return slider;
}

function setSmoothing(s) {
  smoothing = Math.min(0.99, Math.max(0, s));
  const slider = document.querySelector("input[aria-label=Smoothing]");
  if (slider) slider.value = smoothing;
  for (const c of charts) if (c.smooths) c.draw();
}

// FLOP/s by what is counted; the other conventions are a fixed multiple of TorchTitan's.
function flopCards(grid) {
  const ratio = (k) => (r) => scaled(curve(r, "tflops"), r.details.flops[k]);
  const causal = (r) => curve(r, "tflops_causal") || ratio(1)(r);
  const recompute = (r) => (r.details.flops[2] > 1 ? scaled(causal(r), r.details.flops[2]) : null);
  const all = [{label: "TorchTitan's count", of: (r) => curve(r, "tflops")}, {label: "non-causal", of: ratio(0)},
    {label: "causal", of: causal}, {label: "causal and recompute", of: recompute}];
  figures(grid, "Arithmetic", "TFLOP/s a device", all, {smooths: true});
  const share = (f) => ({...f, of: (r) => scaled(f.of(r), r.summary.peak_flops ? 1e14 / r.summary.peak_flops : NaN)});
  figures(grid, "Model FLOP utilization", "% of the device's peak", all.map(share), {suffix: " %", smooths: true});
}

// Parts of a step, one upon the other. Of several runs the whole step alone.
function stepCard(grid) {
  if (!has("step_seconds")) return;
  const parts = several ? [] : Object.keys(runs[0].series).filter((n) => n.endsWith("_seconds") && n !== "step_seconds" &&
    curve(runs[0], n) && curve(runs[0], n).x.length);
  parts.forEach((p) => kShown.add(p));
  if (several || !parts.length)
    return figures(grid, "Step time", "s", [{name: "step_seconds", label: "step"}, ...(several ? [{name: "data_seconds", label: "waiting for data"}] : [])], {smooths: true});
  const names = {data: "waiting for data", enqueue: "enqueueing", wait: "waiting for the device", save: "saving"};
  const label = (n) => ((name) => names[name] || name.replaceAll("_", " "))(n.replace(/_seconds$/, ""));
  const r = runs[0], whole = curve(r, "step_seconds");
  card(grid, "Step time", "s, by part", {stacked: true, smooths: true, makeLines() {
    // Highest first, so that lower areas are drawn over it: step, then sums of ever fewer parts.
    const means = [whole, ...parts.map((p) => curve(r, p))].map((c) => smooth(c.mean || c, Math.min(smoothing, 0.9)));
    const joined = uPlot.join(means.map((c) => [c.x, c.y]));
    const x = joined[0], columns = joined.slice(1);
    const filled = columns.map((c) => { let v = null; return c.map((y) => (v = y ?? v)); });
    const sums = parts.map((_, k) => x.map((__, i) => parts.slice(0, k + 1).reduce((s, ___, j) => s + (filled[j + 1][i] || 0), 0)));
    const at = (ys) => (idx) => (idx === null ? last(ys) : ys[Math.min(idx, ys.length - 1)]);
    const rest = filled[0].map((y, i) => (y === null ? null : Math.max(0, y - last(sums)[i])));
    const lines = [{x, y: filled[0], label: parts.includes("wait_seconds") ? "other" : "computing and communicating", color: () => color(0), width: 1, fill: true, of: at(rest)}];
    for (let k = parts.length - 1; k >= 0; --k)
      lines.push({x, y: sums[k], label: label(parts[k]), color: () => color(k + 1), width: 1, fill: true, of: at(filled[k + 1])});
    return lines;
  }});
}

function curveSection() {
  const grid = el("div", {class: "grid"});
  section("curves", "Curves", grid);
  lossCard(grid);
  if (has("grad_norm"))
    card(grid, "Gradient norm", "before clipping", {smooths: true, makeLines: () =>
      runs.flatMap((r, i) => smoothLines(curve(r, "grad_norm"), i, several ? r.summary.name : "norm", {named: !several}))});
  figures(grid, "Learning rate", "", [{name: "lr", label: "learning rate"}]);
  const total = (r) => scaled(curve(r, "tps"), r.summary.ranks);
  figures(grid, "Tokens per second", several || runs[0].summary.ranks > 1 ? "whole run" : "", [
    {label: several || runs[0].summary.ranks > 1 ? "all devices" : "tokens/s", of: total}], {smooths: true});
  if (runs.some((r) => r.summary.ranks > 1 || !r.summary.ranks))
    figures(grid, "Tokens per second", "a device", [{name: "tps", label: "a device"}], {smooths: true});
  flopCards(grid);
  stepCard(grid);
  figures(grid, "Memory", "GiB, highest of any device so far", [{name: "memory_gib", label: "memory"}]);
}

// Figures of experts, and any that this page has no place for.
const kExpertTitles = {expert_load_max_over_mean: "busiest expert", expert_load_p95: "95th percentile",
  expert_load_p50: "median", expert_load_p5: "5th percentile"};
function expertCurves(grid) {
  const names = Object.keys(kExpertTitles);
  names.forEach((n) => kShown.add(n));
  figures(grid, "Load of experts", "over an even share", names.map((name) => ({name, label: kExpertTitles[name]})), {smooths: true});
  const groups = [["Experts' bias", "", [["expert_bias_max", "highest"], ["expert_bias_min", "lowest"]]],
    ["Entropy of routing", "of the least even layer; 1 is even", [["expert_load_entropy", "entropy"]]],
    ["Experts without tokens", "", [["expert_dead", "dead experts"], ["expert_dropped", "dropped choices"]]],
    ["Steps run again", "for the experts' capacity, so far", [["expert_overflows", "steps"]]]];
  for (const [title, unit, all] of groups) {
    all.forEach(([n]) => kShown.add(n));
    const moves = all.some(([n]) => runs.some((r) => curve(r, n) && curve(r, n).y.some((v) => v)));
    if (moves || title.includes("bias")) figures(grid, title, unit, all.map(([name, label]) => ({name, label})));
  }
}
function otherCurves() {
  const names = [...new Set(runs.flatMap((r) => Object.keys(r.series)))].filter((n) => !kShown.has(n) && has(n)).sort();
  if (!names.length) return;
  const grid = el("div", {class: "grid"});
  section("more", "More figures", grid);
  // grad_norm_layer/0, /1, ... share a plot.
  const families = new Map();
  for (const n of names) {
    const family = n.replace(/[/_]\d+$/, "");
    families.set(family, [...(families.get(family) || []), n]);
  }
  for (const [family, all] of families)
    figures(grid, family, "", all.slice(0, 60).map((name) => ({name, label: all.length > 1 ? name.slice(family.length + 1) : name})));
}
