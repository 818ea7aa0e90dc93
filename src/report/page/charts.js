// Curves over steps: one zoom and one cursor for all.
const charts = [];
// Over a fortieth of what the longest curve has.
let smoothing = Math.min(0.95, Math.max(0, 1 - 40 / Math.max(1, ...runs.map((r) => ((c) => (c ? (c.mean || c).x.length : 0))(curve(r, "loss"))))));
let logLoss = false;
let range = null;  // [first, last] step shown; null: all

const extent = (() => {
  let low = Infinity, high = 1;
  for (const r of runs)
    for (const name of Object.keys(r.series)) {
      const c = curve(r, name);
      if (!c.x.length) continue;
      low = Math.min(low, c.x[0]);
      high = Math.max(high, last(c.x));
    }
  return [isFinite(low) ? low : 0, high];
})();

// An exponential mean over steps, forwards and backwards, so that it does not lag.
function smooth({x, y}, weight) {
  if (weight <= 0 || x.length < 3) return {x, y};
  const gap = (last(x) - x[0]) / (x.length - 1) || 1, n = x.length;
  const pass = (at) => {
    const out = new Array(n);
    let sum = 0, mass = 0, before = null;
    for (let k = 0; k < n; ++k) {
      const i = at(k), v = y[i];
      if (v === null) { out[i] = null; continue; }
      const w = Math.pow(weight, before === null ? 1 : Math.max(0.2, Math.abs(x[i] - before) / gap));
      before = x[i];
      sum = w * sum + (1 - w) * v;
      mass = w * mass + (1 - w);
      out[i] = [sum, mass];
    }
    return out;
  };
  const there = pass((k) => k), back = pass((k) => n - 1 - k);
  return {x, y: y.map((v, i) => {
    if (v === null) return null;
    const [s, m] = there[i], [t, u] = back[i], own = 1 - weight;
    return (s + t - own * v) / (m + u - own);  // its own value is in both
  })};
}

function zoomTo(first, end) {
  const [low, high] = extent;
  if (first === null || (first <= low && end >= high)) {
    range = null;
  } else {
    const width = Math.min(Math.max(end - first, 2), high - low);
    first = Math.min(Math.max(first, low), high - width);
    range = [first, first + width];
  }
  document.getElementById("reset").hidden = range === null;
  for (const c of charts) c.applyRange();
}
const shown = () => range || extent;

// The lowest and highest of what is shown, with some air.
function scaleOf(chart) {
  return (u, low, high) => {
    if (!known(low) || !known(high)) return [0, 1];
    if (chart.log && chart.log()) return [low, high];
    const from0 = chart.stacked || (low >= 0 && low < 0.35 * high);
    const air = 0.06 * (high - low) || Math.abs(high) * 0.1 || 1;
    return [from0 ? Math.min(0, low) : low - air, high + air];
  };
}

class Chart {
  // lines: () => [{label, x, y, color, width, alpha, dash, dots, fill, hidden}]
  constructor(host, options) {
    Object.assign(this, {height: 210, ...options, host});
    this.legend = el("div", {class: "legend"});
    this.plot = el("div", {class: "plot"});
    host.append(this.legend, this.plot);
    charts.push(this);
  }

  draw() {
    this.lines = this.makeLines();
    if (this.u) this.u.destroy();
    const tables = this.lines.map((l) => [l.x, l.y]);
    const data = tables.length ? uPlot.join(tables) : [[], []];
    const font = "12px system-ui, 'Liberation Sans', sans-serif";
    const axis = (more) => ({stroke: () => css("--faint"), font, ticks: {show: false},
      grid: {stroke: () => css("--line-soft"), width: 1}, ...more});
    this.u = new uPlot({
      width: this.plot.clientWidth || 300, height: this.height, padding: [8, 18, 0, 0],
      cursor: {sync: this.alone ? undefined : {key: "steps", setSeries: false}, y: false, points: {size: 7},
               drag: {x: !this.alone, y: false, dist: 6}, bind: {dblclick: () => () => zoomTo(null)}},
      legend: {show: false},
      scales: {x: {time: false, range: () => { const [a, b] = this.alone || shown(); return [a, b > a ? b : a + 1]; }},
               y: {distr: this.log && this.log() ? 3 : 1, range: this.log && this.log() ? undefined : scaleOf(this)}},
      axes: [axis({values: (u, v) => v.map((x) => (Number.isInteger(x) || this.alone ? short(x, 4) : "")), size: 30, grid: {show: false}}),
             axis({values: (u, v) => v.map((x) => (x === null ? "" : short(x, 4))), size: (u, values) =>
               Math.max(38, 12 + 7 * Math.max(0, ...(values || []).map((t) => t.length))), gap: 6})],
      series: [{}, ...this.lines.map((l) => ({
        label: l.label,
        stroke: () => faded(l.color(), l.alpha || 1),
        fill: l.fill ? () => mix(css("--card"), l.color(), 0.62) : undefined,
        width: l.dots ? 0 : l.width || 1.6, dash: l.dash,
        points: l.dots ? {show: true, size: 7, fill: () => l.color(), stroke: () => css("--card")} : {show: l.x.length === 1, size: 6},
        paths: l.dots ? () => null : undefined,
      }))],
      bands: this.bands ? this.bands() : undefined,
      hooks: {
        setSelect: [(u) => {
          if (u.select.width < 4) return;
          const a = u.posToVal(u.select.left, "x"), b = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
          zoomTo(a, b);
        }],
        setCursor: [(u) => this.values(u.cursor.idx)],
        drawAxes: [(u) => this.alone || this.marks(u)],
      },
    }, data, this.plot);
    this.values(null);
  }

  applyRange() {
    if (this.u) this.u.setData(this.u.data, true);
  }

  // Restarts of a run, as dotted lines.
  marks(u) {
    const ctx = u.ctx, {left, top, width, height} = u.bbox;
    ctx.save();
    ctx.setLineDash([2, 4].map((d) => d * devicePixelRatio));
    ctx.lineWidth = devicePixelRatio;
    runs.forEach((r, i) => {
      ctx.strokeStyle = several ? color(i) : css("--faint");
      for (const s of r.summary.starts.slice(1)) {
        if (!s.first) continue;
        const x = u.valToPos(s.first - 0.5, "x", true);
        if (x < left || x > left + width) continue;
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + height);
        ctx.stroke();
      }
    });
    ctx.restore();
  }

  // The legend: the values under the cursor, else the last ones.
  values(idx) {
    const u = this.u;
    const items = [];
    if (known(idx) && u) items.push(el("span", {class: "item"}, this.alone ? "at " : "step ", el("b", {}, this.alone ? figure(u.data[0][idx]) : group(u.data[0][idx], 0))));
    this.lines.forEach((l, i) => {
      if (l.quiet) return;
      let y = null;
      if (known(idx) && u) {
        const ys = u.data[i + 1];
        for (let k = idx, n = 0; k >= 0 && n < 400 && !known(y); --k, ++n) y = ys[k];
        if (l.dots && !known(u.data[i + 1][idx])) y = null;
      } else {
        y = last(l.y);
      }
      if (l.of) y = l.of(known(idx) && u ? idx : null, y);
      items.push(el("span", {class: "item", style: `--c:${l.color()}`},
        el("i", {class: l.dots ? "dot" : l.fill ? "box" : l.dash ? "dash" : l.alpha ? "raw" : null}),
        el("span", {class: "name", title: l.label}, l.label), el("b", {}, known(y) ? figure(y) + (this.suffix || "") : "")));
    });
    if (!several && this.showsStarts !== false && runs[0].summary.starts.filter((s) => s.first).length > 1)
      items.push(el("span", {class: "item"}, el("i", {class: "bar-mark"}), "restart"));
    this.legend.replaceChildren(...items);
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.u && width && width !== this.u.width) this.u.setSize({width, height: this.height});
  }
}

function line(run, i, name, more) {
  const c = curve(run, name);
  return c && c.x.length ? {x: c.x, y: c.y, color: () => color(i), label: name, ...more} : null;
}

// Values faint, their smoothed mean strong. `named`: the values are in the legend too.
function smoothLines(c, i, label, {named = false, dash} = {}) {
  if (!c || !c.x.length) return [];
  if (smoothing <= 0 && !c.mean) return [{x: c.x, y: c.y, color: () => color(i), label, dash}];
  return [{x: c.x, y: c.y, color: () => color(i), label: "each step", width: 1, alpha: 0.3, quiet: !named},
          {...smooth(c.mean || c, smoothing), color: () => color(i), label: named ? "smoothed" : label, width: 1.8, dash}];
}

// A card with a chart of one figure over all runs, or of several figures of one.
function card(grid, title, unit, options, ...tools) {
  const host = el("div", {class: "card" + (options.wide ? " wide" : "")},
    el("header", {}, el("h3", {}, title, unit ? el("span", {class: "unit"}, unit) : null), el("span", {class: "spring"}), tools));
  grid.append(host);
  return new Chart(host, options);
}

// figures: [{name, label, of: run -> {x, y}}]. Of one run all are lines; of several one is chosen.
function figures(grid, title, unit, all, options = {}) {
  const there = all.filter((f) => runs.some((r) => (f.of ? f.of(r) : curve(r, f.name))));
  if (!there.length) return;
  let chosen = options.chosen && there[options.chosen] ? options.chosen : 0;
  const at = (f, r) => (f.of ? f.of(r) : curve(r, f.name));
  const pick = several && there.length > 1
    ? choice(there.map((f) => f.label), chosen, (i) => { chosen = i; chart.draw(); }, title) : null;
  const chart = card(grid, title, unit, {...options, makeLines() {
    const lines = (c, i, label) => (!c || !c.x.length ? [] : options.smooths ? smoothLines(c, i, label)
      : [{x: c.x, y: c.y, color: () => color(i), label}]);
    return several ? runs.flatMap((r, i) => lines(at(there[chosen], r), i, r.summary.name))
                   : there.flatMap((f, i) => lines(at(f, runs[0]), i, f.label));
  }}, pick);
}

function scaled(c, factor) {
  if (!c || !known(factor)) return null;
  const times = ({x, y}) => ({x, y: y.map((v) => (v === null ? null : v * factor))});
  return {...times(c), mean: c.mean && times(c.mean)};
}
