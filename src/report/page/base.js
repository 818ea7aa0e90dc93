// Data, formats, and small things that all parts of the page use. Text of a run only ever becomes
// textContent: whatever HTML a description holds is shown as it is written.
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const runs = D.runs;
const several = runs.length > 1;
const main = document.getElementById("main");

// el("td", {class: "n"}, "text", child, ...)
function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) {
    if (v === null || v === undefined || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k === "style") e.style.cssText = v;
    else e.setAttribute(k, v === true ? "" : v);
  }
  for (const c of children.flat(Infinity))
    if (c !== null && c !== undefined && c !== false) e.append(c);
  return e;
}

// A curve: {x: [], y: []} with its extremes, and `mean`, likewise, where it was thinned out.
function curve(run, name) {
  const s = run.series[name];
  if (!s) return null;
  if (!s.decoded) {
    const points = ([dx, y]) => {
      let x = 0;
      return {x: dx.map((d) => (x += d)), y};
    };
    s.decoded = points(s.p);
    s.decoded.mean = s.m ? points(s.m) : null;
  }
  return s.decoded;
}
const has = (name) => runs.some((r) => curve(r, name));
const last = (a) => a[a.length - 1];

const known = (x) => x !== null && x !== undefined && isFinite(x);
function group(x, digits) {
  return x.toLocaleString("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});
}
// Four digits: 0.1234, 12.34, 1,234, 1,234,567.
function figure(x) {
  if (!known(x)) return "–";
  const a = Math.abs(x);
  if (a !== 0 && a < 1e-3) return x.toExponential(2);
  if (a < 10) return group(x, Number.isInteger(x) ? 0 : 4 - Math.max(1, Math.ceil(Math.log10(a + 1e-12))));
  return group(x, a < 100 ? 2 : a < 1000 ? 1 : 0);
}
// 1.23M: for axes and tiles.
function short(x, digits = 3) {
  if (!known(x)) return "–";
  const a = Math.abs(x);
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (a >= size) return trim((x / (letter === "k" ? 1e3 : size)).toPrecision(digits)) + letter;
  if (a === 0) return "0";
  if (a < 1e-3) return x.toExponential(Math.max(0, digits - 2)).replace(/\.?0+e/, "e");
  return a >= 1000 ? group(x, 0) : trim(x.toPrecision(digits));
}
const trim = (t) => (t.includes(".") && !t.includes("e") ? t.replace(/\.?0+$/, "") : t);
const percent = (x, digits = 1) => (known(x) ? x.toFixed(digits) + " %" : "–");
function bytes(n) {
  for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (n >= size) return (n / size).toFixed(n >= 100 * size ? 0 : 2) + " " + unit;
  return n + " B";
}
function duration(s) {
  if (!known(s)) return "–";
  if (s < 100) return s.toFixed(1) + " s";
  if (s < 3600) return (s / 60).toFixed(1) + " min";
  const m = Math.floor(s / 60), two = (n) => String(n).padStart(2, "0");
  return m < 2880 ? `${Math.floor(m / 60)} h ${two(m % 60)} min`
                  : `${Math.floor(m / 1440)} d ${two(Math.floor(m / 60) % 24)} h`;
}
function clock(t) {  // 2026-11-30 03:31:02
  return known(t) ? new Date(1000 * t).toISOString().replace("T", " ").slice(0, 19) : "";
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const color = (i) => css(`--c${i % 8}`);
const colorOf = (i) => `--c:var(--c${i % 8})`;
function faded(hex, alpha) {
  const n = parseInt(hex.slice(1), 16);
  return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${alpha})`;
}

// A table: columns {head, n: right-aligned, class}, rows of cells (text or nodes).
function table(columns, rows, rowClass) {
  return el("div", {class: "scroll"}, el("table", {},
    el("thead", {}, el("tr", {}, columns.map((c) => el("th", {class: c.n && "n", scope: "col"}, c.head)))),
    el("tbody", {}, rows.map((row, i) => el("tr", {class: rowClass && rowClass(i)},
      row.map((cell, k) => el("td", {class: [columns[k].n && "n", columns[k].class,
        cell && cell.cell].filter(Boolean).join(" ") || null}, cell && cell.cell ? cell.text : cell)))))));
}

// One of several, as buttons side by side.
function choice(names, chosen, act, label) {
  const buttons = names.map((name, i) => el("button", {type: "button", "aria-pressed": String(i === chosen),
    onclick() {
      buttons.forEach((b, k) => b.setAttribute("aria-pressed", String(k === i)));
      act(i);
    }}, name));
  return el("div", {class: "seg", role: "group", "aria-label": label}, buttons);
}

function section(id, title, ...children) {
  const s = el("section", {id, "data-title": title}, id === "overview" ? null : el("h2", {}, title),
               children);
  main.append(s);
  return s;
}
const swatch = (i) => (several ? el("span", {class: "swatch", style: colorOf(i)}) : null);
const runName = (i) => el("span", {}, swatch(i), runs[i].summary.name);
