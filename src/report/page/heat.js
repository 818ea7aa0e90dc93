// Experts by layer as a picture: how much each got over an even share, and its bias.
function decode(text) {
  const s = atob(text);
  const out = new Uint8Array(s.length);
  for (let i = 0; i < s.length; ++i) out[i] = s.charCodeAt(i);
  return out;
}
function mix(a, b, t) {
  const p = (h) => [1, 3, 5].map((i) => parseInt(h.slice(i, i + 2), 16));
  const x = p(a), y = p(b);
  return `rgb(${x.map((v, i) => Math.round(v + (y[i] - v) * t)).join(",")})`;
}
// 0 to 1 is below the middle, 1 to `most` above it.
function heatColor(v, most) {
  const mid = css("--heat-mid");
  if (v < 1) return mix(css("--heat-low"), mid, Math.max(0, v));
  return mix(mid, css("--heat-high"), Math.min(1, (v - 1) / (most - 1)));
}

class Heat {
  // value(row, column) in load's terms; tip(row, column) -> text
  constructor(host, rows, columns, labels) {
    Object.assign(this, {rows, columns, labels, host});
    this.canvas = el("canvas", {role: "img"});
    this.tip = el("div", {class: "tip", hidden: true});
    host.classList.add("heat");
    host.append(this.canvas, this.tip);
    this.canvas.addEventListener("pointermove", (e) => this.point(e));
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }
  draw(value, tip, most, label) {
    Object.assign(this, {value, tipText: tip, most});
    this.canvas.setAttribute("aria-label", label);
    this.paint();
  }
  paint() {
    if (!this.value) return;
    const width = this.host.clientWidth || 300, left = 34, bottom = 20;
    const cell = Math.max(this.rows > 30 ? 7 : 12, Math.min(26, 260 / this.rows));
    const height = this.rows * cell + bottom, scale = devicePixelRatio;
    Object.assign(this, {left, cell, wide: (width - left) / this.columns});
    const c = this.canvas;
    c.width = width * scale;
    c.height = height * scale;
    c.style.height = height + "px";
    const ctx = c.getContext("2d");
    ctx.scale(scale, scale);
    const ramp = [];
    for (let i = 0; i <= 256; ++i) ramp.push(heatColor((i / 256) * this.most, this.most));
    const gap = this.wide > 5 && cell > 9 ? 1 : 0;
    for (let r = 0; r < this.rows; ++r)
      for (let k = 0; k < this.columns; ++k) {
        const v = this.value(r, k);
        ctx.fillStyle = ramp[Math.min(256, Math.max(0, Math.round((v / this.most) * 256)))];
        const x = Math.round((left + k * this.wide) * scale) / scale;
        const end = Math.round((left + (k + 1) * this.wide) * scale) / scale;
        ctx.fillRect(x, r * cell, Math.max(0.5, end - x - gap), cell - gap);
      }
    ctx.fillStyle = css("--faint");
    ctx.font = "11px system-ui, sans-serif";
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    const every = Math.ceil(14 / cell);
    for (let r = 0; r < this.rows; r += every) ctx.fillText(this.labels.row(r), left - 6, Math.max(6, r * cell + cell / 2));
    ctx.textBaseline = "alphabetic";
    ctx.textAlign = "center";
    const step = Math.max(1, Math.ceil(this.columns / Math.max(2, Math.floor((width - left) / 56))));
    for (let k = 0; k < this.columns; k += step) {
      const x = left + (k + 0.5) * this.wide;
      if (x < width - 12) ctx.fillText(this.labels.column(k), Math.max(x, left + 8), height - 5);
    }
  }
  point(e) {
    const box = this.canvas.getBoundingClientRect();
    const r = Math.floor((e.clientY - box.top) / this.cell), k = Math.floor((e.clientX - box.left - this.left) / this.wide);
    this.tip.hidden = !(r >= 0 && r < this.rows && k >= 0 && k < this.columns);
    if (this.tip.hidden) return;
    this.tip.textContent = this.tipText(r, k);
    this.tip.style.left = Math.min(Math.max(e.clientX - box.left, 70), box.width - 70) + "px";
    this.tip.style.top = e.clientY - box.top + "px";
  }
}

const heats = [];
function ramp(most, low, high) {
  const stops = [];
  for (let i = 0; i <= 16; ++i) stops.push(heatColor((i / 16) * most, most));
  return el("div", {class: "ramp"}, low, el("div", {style: `background:linear-gradient(90deg,${stops.join(",")})`}), high);
}

function expertMaps(grid) {
  runs.forEach((run, index) => {
    const e = run.details.experts;
    if (!e || !e.samples.length) return;
    const rows = e.layers.length, columns = e.experts;
    const loads = e.samples.map((s) => decode(s.load));
    const biases = e.samples.map((s) => (s.bias ? decode(s.bias) : null));
    const named = (title) => (several ? `${title}: ${run.summary.name}` : title);
    const card = el("div", {class: "card wide"});
    const slider = el("input", {type: "range", min: 0, max: loads.length - 1, value: loads.length - 1, "aria-label": "Step of the picture"});
    const at = el("b", {}), legend = el("span", {});
    const host = el("div", {});
    let bias = false;
    const heat = new Heat(host, rows, columns, {row: (r) => e.layers[r], column: (k) => k});
    const show = () => {
      const i = +slider.value, load = loads[i], step = e.samples[i].step;
      at.textContent = group(step, 0);
      if (bias && biases[i]) {
        const [low, high] = e.bias, size = Math.max(Math.abs(low), Math.abs(high)) || 1;
        const value = (r, k) => low + ((high - low) * biases[i][r * columns + k]) / 255;
        heat.draw((r, k) => 1 + value(r, k) / size, (r, k) => `layer ${e.layers[r]}, expert ${k}: bias ${figure(value(r, k))}`, 2,
          `Bias of each expert of each layer at step ${step}`);
        legend.replaceChildren(ramp(2, figure(-size), figure(size)));
      } else {
        const value = (r, k) => load[r * columns + k] * e.unit;
        heat.draw(value, (r, k) => `layer ${e.layers[r]}, expert ${k}: ${value(r, k).toFixed(2)} of an even share`, 3,
          `Load of each expert of each layer at step ${step}, over an even share`);
        legend.replaceChildren(ramp(3, "0", "3 × even"));
      }
    };
    slider.addEventListener("input", show);
    card.append(el("header", {}, el("h3", {}, named("Every expert"), el("span", {class: "unit"}, "layers down, experts across")),
      el("span", {class: "spring"}),
      loads.length > 1 ? el("label", {class: "range"}, "Step ", at, slider) : el("span", {class: "range"}, "Step ", at),
      biases[0] && biases[0].length ? choice(["load", "bias"], 0, (i) => { bias = i === 1; show(); }, "What is shown") : null, legend), host);
    grid.append(card);
    heats.push({heat, show});

    const b = e.busiest;
    if (b.steps.length < 4) return;
    const over = el("div", {class: "card wide"}), overHost = el("div", {}), legendOver = el("span", {});
    const time = new Heat(overHost, rows, b.steps.length, {row: (r) => e.layers[r], column: (k) => short(b.steps[k])});
    over.append(el("header", {}, el("h3", {}, named("Busiest expert of each layer"), el("span", {class: "unit"}, "over steps, over an even share")),
      el("span", {class: "spring"}), legendOver), overHost);
    grid.append(over);
    heats.push({heat: time, show() {
      time.draw((r, k) => b.load[k][r], (r, k) => `layer ${e.layers[r]}, step ${group(b.steps[k], 0)}: ${b.load[k][r].toFixed(2)} of an even share`, 3,
        "Load of the busiest expert of each layer over steps");
      legendOver.replaceChildren(ramp(3, "0", "3 × even"));
    }});
  });
}
