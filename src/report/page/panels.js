// What is no curve: the head, where time went, memory, events, settings.
const status = (s) => {
  const end = (last(s.starts) || {}).ended;
  if (s.completed) return ["good", "completed"];
  if (end === "signal") return ["warn", "stopped by a signal"];
  if (end === "error" || end === "nonfinite") return ["bad", end === "error" ? "ended with an error" : "loss not finite"];
  return ["", s.total_steps > s.steps ? `${group(s.steps, 0)} of ${group(s.total_steps, 0)} steps` : "end not recorded"];
};
const sourceName = {nereus: "Nereus", torchtitan: "a log", tensorboard: "TensorBoard events"};

function banner(items) {
  if (!items.length) return null;
  return el("div", {class: "banner", role: "note"}, items.length === 1 ? el("div", {}, items[0]) : el("ul", {}, items.map((t) => el("li", {}, t))));
}

function tile(name, value, unit, more) {
  return el("div", {class: "tile"}, el("div", {class: "name"}, name), el("div", {class: "value"}, value, unit ? el("small", {}, unit) : null),
    more ? el("div", {class: "more"}, more) : null);
}

function tiles(s) {
  const out = [tile("Loss", figure(s.loss_last), "", `from ${figure(s.loss_first)}, lowest ${figure(s.loss_lowest)}`)];
  if (known(s.validation_loss_last)) out.push(tile("Validation loss", figure(s.validation_loss_last), "", `from ${figure(s.validation_loss_first)}`));
  const t = s.tokens_per_second;
  if (known(t.mean)) {
    out.push(tile("Tokens per second", short(t.mean, 4), "", `± ${short(t.stddev)}, median ${short(t.median, 4)}` +
      (s.ranks > 1 ? `; ${short(s.tokens_per_second_per_gpu, 4)} a device` : "")));
  } else if (known(s.tokens_per_second_per_gpu)) {
    out.push(tile("Tokens per second", short(s.tokens_per_second_per_gpu, 4), "a device", ""));
  }
  if (known(s.step_seconds.mean)) out.push(tile("Step time", figure(s.step_seconds.mean), "s", `± ${figure(s.step_seconds.stddev)} s`));
  if (known(s.mfu.torchtitan)) out.push(tile("MFU", percent(s.mfu.torchtitan), "", known(s.mfu.causal) ? `${percent(s.mfu.causal)} causal; ${figure(s.tflops.torchtitan)} TFLOP/s` : `${figure(s.tflops.torchtitan)} TFLOP/s a device`));
  else if (known(s.tflops.torchtitan)) out.push(tile("TFLOP/s", figure(s.tflops.torchtitan), "a device", known(s.tflops.causal) ? `${figure(s.tflops.causal)} causal` : ""));
  if (known(s.goodput.share) && s.goodput.wall_seconds > 0) out.push(tile("Goodput", percent(100 * s.goodput.share), "", `of ${duration(s.goodput.wall_seconds)}`));
  if (known(s.memory_peak_gib)) out.push(tile("Memory", figure(s.memory_peak_gib), "GiB", "highest of any device"));
  out.push(tile("Steps", group(s.steps, 0), s.total_steps ? `of ${group(s.total_steps, 0)}` : "",
    known(s.tokens_per_step) ? `${short(s.steps * s.tokens_per_step)} tokens` : ""));
  return el("div", {class: "tiles"}, out);
}

function overview() {
  const s = runs[0].summary;
  const notes = runs.flatMap((r) => r.summary.notes.map((n) => (several ? `${r.summary.name}: ${n}` : n)));
  if (D.comparison.models_differ) notes.unshift("These runs are of different models: their curves are drawn over each other, but their losses are not of the same thing.");
  if (several) {
    section("overview", "Overview", el("h1", {}, `${runs.length} runs`),
      el("p", {class: "sub"}, runs.map((r) => r.summary.name).join("  ·  ")), banner(notes), runTable(), difference());
    return;
  }
  const [kind, word] = status(s);
  const sub = [s.model, s.ranks ? `${s.ranks} rank${s.ranks === 1 ? "" : "s"}` : "", s.starts.length > 1 ? `${s.starts.length} starts` : "",
    known((s.starts[0] || {}).begin) ? clock(s.starts[0].begin) : "", s.source === "nereus" ? "" : "from " + sourceName[s.source]].filter(Boolean);
  section("overview", "Overview", el("h1", {}, s.description || s.name, el("span", {class: "chip " + kind}, word)),
    el("p", {class: "sub"}, el("span", {title: s.path}, s.name), sub.map((t) => [el("span", {class: "dot"}, "·"), t])),
    banner(notes), tiles(s));
}

function runTable() {
  const rows = [["Steps", (s) => group(s.steps, 0)], ["State", (s) => status(s)[1]], ["Model", (s) => s.model || "–"], ["Devices", (s) => figure(s.ranks)],
    ["Tokens a step", (s) => (known(s.tokens_per_step) ? group(s.tokens_per_step, 0) : "–")],
    ["Loss, first", (s) => figure(s.loss_first)], ["Loss, last", (s) => figure(s.loss_last)], ["Validation loss, last", (s) => figure(s.validation_loss_last)],
    ["Tokens/s, mean", (s) => figure(s.tokens_per_second.mean)], ["Tokens/s a device", (s) => figure(s.tokens_per_second_per_gpu)],
    ["Step time", (s) => figure(s.step_seconds.mean) + " s"], ["TFLOP/s (TorchTitan)", (s) => figure(s.tflops.torchtitan)],
    ["TFLOP/s (causal)", (s) => figure(s.tflops.causal)], ["MFU (TorchTitan)", (s) => percent(s.mfu.torchtitan)], ["MFU (causal)", (s) => percent(s.mfu.causal)],
    ["Memory", (s) => figure(s.memory_peak_gib) + " GiB"], ["Goodput", (s) => percent(100 * (s.goodput.share ?? NaN))]];
  const there = rows.filter(([, f]) => runs.some((r) => !["–", "– s", "– GiB"].includes(f(r.summary))));
  return el("div", {class: "card facts"}, table([{head: ""}, ...runs.map((r, i) => ({head: runName(i), n: true}))],
    there.map(([name, f]) => [name, ...runs.map((r) => f(r.summary))])));
}

function difference() {
  const c = D.comparison;
  const found = c.pairs.map((p, i) => {
    const names = `${runs[0].summary.name} and ${runs[i + 1].summary.name}`;
    if (!p.common_steps) return `${names} logged no step in common.`;
    if (p.first_step === null) return `${names} have the same loss at all ${group(p.common_steps, 0)} steps in common.`;
    return `${names} first differ at step ${group(p.first_step, 0)}: loss ${p.losses[0] ?? "not finite"} and ${p.losses[1] ?? "not finite"}; ` +
      (p.one_percent_step === null ? "never by 1 %" : `by 1 % or more from step ${group(p.one_percent_step, 0)}`) +
      (p.largest_step === null ? "." : `; most at step ${group(p.largest_step, 0)}, by ${percent(100 * p.largest)}.`);
  });
  return el("div", {class: "card", style: "margin-top:14px"}, el("header", {}, el("h3", {}, "Where they first differ")),
    el("ul", {style: "margin:0 0 10px;padding-left:18px"}, found.map((t) => el("li", {}, t))),
    c.settings.length
      ? table([{head: "Setting", class: "key"}, ...runs.map((_, i) => ({head: runName(i), class: "val"}))], c.settings.map((row) => [row.key, ...row.values.map((v) => v || "–")]))
      : el("p", {class: "note"}, runs.every((r) => r.details.settings.length) ? "No setting differs." : "Settings are not known of all runs."));
}

// Goodput and the recipe's measure.
const kPartColors = [2, 1, 4, 0, 5, 3, 7, 6];
function timeSection() {
  const cards = runs.filter((r) => r.summary.goodput.wall_seconds > 0).map((r) => {
    const s = r.summary, g = s.goodput;
    const parts = D.time_parts.map(([name, label], i) => ({name, label, i: kPartColors[i], seconds: g.seconds[name]})).filter((p) => p.seconds > 5e-4 * g.wall_seconds);
    const share = (x) => percent((100 * x) / g.wall_seconds);
    const bar = el("div", {class: "share", role: "img", "aria-label": `Goodput ${percent(100 * g.share)}`},
      parts.map((p) => el("div", {style: `${colorOf(p.i)};flex:${p.seconds} 0 0`, title: `${p.label}: ${duration(p.seconds)}, ${share(p.seconds)}`},
        p.seconds > 0.08 * g.wall_seconds ? share(p.seconds) : "")));
    const legend = el("div", {class: "legend", style: "margin:10px 0 4px"}, parts.map((p) => el("span", {class: "item", style: colorOf(p.i)},
      el("i", {class: "box"}), p.label, el("b", {}, duration(p.seconds)))));
    const columns = [{head: "Start", n: true}, {head: "Steps", class: "short"}, {head: "Began (UTC)", class: "short"}, ...D.time_parts.map(([, label]) => ({head: label, n: true})), {head: "Ended"}];
    const starts = s.starts.map((t, i) => [i + 1, t.first ? `${group(t.first, 0)} to ${group(t.last, 0)}` : "none", clock(t.begin),
      ...D.time_parts.map(([name]) => (t.seconds[name] > 0 ? duration(t.seconds[name]) + (name === "again" && t.again_steps ? ` (${group(t.again_steps, 0)} steps)` : "") : "–")), t.ended || (i + 1 < s.starts.length && s.source === "nereus" ? "not recorded" : "–")]);
    // Parts that no start has are no column.
    const used = columns.map((_, k) => k < 2 || starts.some((row) => row[k] !== "–" && row[k] !== ""));
    return el("div", {class: "card wide"}, el("header", {}, el("h3", {}, several ? `Goodput: ${s.name}` : "Goodput"),
        el("span", {class: "unit"}, `${percent(100 * g.share)} of ${duration(g.wall_seconds)} ${g.by_clock ? "of wall time" : "that its files tell of"} went to steps that counted`)),
      bar, legend, s.starts.length > 1 || several === false ? table(columns.filter((_, k) => used[k]), starts.map((row) => row.filter((_, k) => used[k]))) : null);
  });
  const measures = el("div", {class: "card wide"}, el("header", {}, el("h3", {}, "The recipe's measure"),
    el("span", {class: "unit"}, "tokens/s = sequence × global batch / step time, over a window without warm-up")), measureTable());
  section("time", "Time and speed", el("div", {class: "grid"}, cards, measures));
}

function measureTable() {
  const columns = [several ? {head: "Run"} : null, {head: "Steps", class: "short"}, {head: "Tokens a step", n: true}, {head: "Step time, mean", n: true}, {head: "Tokens/s, mean", n: true},
    {head: "median", n: true}, {head: "deviation", n: true}, {head: "a device", n: true}, {head: "1 T tokens", n: true}].filter(Boolean);
  return table(columns, runs.map((r, i) => {
    const s = r.summary, t = s.tokens_per_second;
    return [several ? runName(i) : null, `${group(s.window[0], 0)} to ${group(s.window[1], 0)}`, known(s.tokens_per_step) ? group(s.tokens_per_step, 0) : "–",
      figure(s.step_seconds.mean) + " s", figure(t.mean), figure(t.median), figure(t.stddev), figure(s.tokens_per_second_per_gpu),
      known(t.mean) ? short(1e12 / t.mean / 86400) + " days" : "–"].filter((c) => c !== null);
  }));
}

function memorySection() {
  const cards = runs.filter((r) => r.details.memory).flatMap((r) => {
    const m = r.details.memory, host = el("div", {});
    const show = (k) => {
      const rows = m.ranks[k].owners.slice().sort((a, b) => b[1] - a[1]), total = rows.reduce((s, o) => s + o[1], 0), most = rows.length ? rows[0][1] : 1;
      host.replaceChildren(el("div", {class: "bars"}, rows.flatMap(([name, n]) => [el("span", {class: "name"}, name),
        el("div", {class: "track"}, el("div", {style: `width:${(100 * n) / most}%`})), el("span", {class: "n"}, bytes(n)), el("span", {class: "n faint"}, percent((100 * n) / total))]),
        el("b", {}, "together"), el("span", {}), el("b", {class: "n"}, bytes(total)), el("span", {class: "faint"})));
    };
    const pick = m.ranks.length > 1 ? el("select", {"aria-label": "Rank", onchange: (e) => show(+e.target.value)}, m.ranks.map((k, i) => el("option", {value: i}, `rank ${k.rank}`))) : null;
    show(0);
    const owners = el("div", {class: "card wide"}, el("header", {}, el("h3", {}, several ? `By owner: ${r.summary.name}` : "By owner", el("span", {class: "unit"}, m.source.replace("_", " "))),
      el("span", {class: "spring"}), pick), host);
    return m.use.length && m.times.length > 1 ? [owners, useCard(r, m)] : [owners];
  });
  if (cards.length) section("memory", "Memory", el("div", {class: "grid"}, cards));
}

// Activations over a step, one kind upon the other, on a scale of its own.
function useCard(r, m) {
  const host = el("div", {class: "card wide"}, el("header", {}, el("h3", {}, several ? `Activations over a step: ${r.summary.name}` : "Activations over a step",
    el("span", {class: "unit"}, `MiB by ms, rank ${m.ranks[0].rank}`))));
  const unit = 2 ** 20, x = m.times.map((t) => 1e3 * t);
  new Chart(host, {stacked: true, alone: [x[0], last(x)], showsStarts: false, makeLines: () => m.use.map(([name, values], k) => ({
    x, y: x.map((_, i) => m.use.slice(0, k + 1).reduce((s, u) => s + u[1][i], 0) / unit), label: name, color: () => color(k), width: 1, fill: true,
    of: (i) => values[i === null ? values.length - 1 : Math.min(i, values.length - 1)] / unit})).reverse()});
  return host;
}

const kMarks = {start: "▶", resume: "↻", checkpoint: "▾", validation: "◆", warning: "!", error: "✕", nonfinite: "✕", signal: "■", end: "■", rerun: "⟲", skip: "»"};
function eventSection() {
  const all = runs.flatMap((r, i) => r.details.events.map((e) => ({i, time: e[0], step: e[1], kind: e[2], text: e[3], seconds: e[4]})));
  if (!all.length) return;
  const kinds = [...new Set(all.map((e) => e.kind))];
  const begin = runs.map((r) => (r.summary.starts[0] || {}).begin);
  let kind = null, most = 200;
  const host = el("div", {});
  const show = () => {
    const rows = all.filter((e) => kind === null || e.kind === kind);
    host.replaceChildren(table([several ? {head: "Run"} : null, {head: "After", n: true}, {head: "Step", n: true}, {head: "Kind"}, {head: "What", class: "text"}, {head: "Took", n: true}].filter(Boolean),
      rows.slice(0, most).map((e) => [several ? runName(e.i) : null,
        el("span", {title: clock(e.time)}, known(e.time) && known(begin[e.i]) ? duration(Math.max(0, e.time - begin[e.i])) : clock(e.time)),
        e.step === null ? "" : group(e.step, 0), el("span", {style: "white-space:nowrap"}, el("span", {class: "mark", "aria-hidden": true}, kMarks[e.kind] || "·"), e.kind), e.text,
        e.seconds > 0 ? duration(e.seconds) : ""].filter((c) => c !== null)),
      (k) => (["error", "nonfinite"].includes(rows[k].kind) ? "bad" : rows[k].kind === "warning" ? "warn" : null)),
      rows.length > most ? el("p", {}, el("button", {class: "tool", onclick() { most = Infinity; show(); }}, `All ${group(rows.length, 0)}`)) : "");
  };
  show();
  section("events", "Events", el("div", {class: "card"}, kinds.length > 1 ? el("div", {class: "controls"}, choice(["all", ...kinds], 0, (i) => { kind = i ? kinds[i - 1] : null; show(); }, "Kind")) : null, host));
}

function settingSection() {
  const with_ = runs.map((r, i) => i).filter((i) => runs[i].details.settings.length);
  if (!with_.length) return;
  const keys = [...new Set(with_.flatMap((i) => runs[i].details.settings.map((s) => s[0])))];
  const maps = runs.map((r) => new Map(r.details.settings.map((s) => [s[0], s])));
  const differs = new Set(D.comparison.settings.map((s) => s.key));
  const columns = [{head: "Key", class: "key"}, ...(several ? with_.map((i) => ({head: runName(i), class: "val"})) : [{head: "Value", class: "val"}, {head: "From", class: "origin"}])];
  const t = table(columns, keys.map((k) => [k, ...(several ? with_.map((i) => { const s = maps[i].get(k); return {cell: differs.has(k) ? "differs" : "same", text: s ? s[1] : "–"}; })
    : [(maps[with_[0]].get(k) || [])[1], (maps[with_[0]].get(k) || [])[2] || ""])]));
  const rows = [...t.querySelectorAll("tbody tr")];
  const set = keys.map((k) => with_.some((i) => { const s = maps[i].get(k); return s && s[2] && s[2] !== "default"; }));
  const origins = set.some(Boolean);
  const filter = el("input", {class: "filter", type: "search", placeholder: "Filter keys and values", "aria-label": "Filter settings"});
  const only = el("input", {type: "checkbox", checked: several ? differs.size > 0 : origins});
  const count = el("span", {class: "note", style: "margin:0"});
  const show = () => {
    const text = filter.value.trim().toLowerCase();
    let n = 0;
    rows.forEach((row, i) => {
      const off = (only.checked && !text && !(several ? differs.has(keys[i]) : set[i])) || (text && !row.textContent.toLowerCase().includes(text));
      row.classList.toggle("off", !!off);
      n += !off;
    });
    count.textContent = `${n} of ${rows.length}`;
  };
  filter.addEventListener("input", show);
  only.addEventListener("change", show);
  show();
  section("settings", "Configuration", el("div", {class: "card"}, el("div", {class: "controls"}, filter,
    several || origins ? el("label", {class: "check"}, only, several ? "only what differs" : "only what was set") : null, count), t));
}

function environmentSection() {
  const rows = [["Path", (r) => r.summary.path], ["Read from", (r) => sourceName[r.summary.source]], ["Devices", (r) => (r.summary.ranks ? figure(r.summary.ranks) : "")],
    ["Peak of a device", (r) => (r.summary.peak_flops ? `${figure(r.summary.peak_flops / 1e12)} TFLOP/s` : "")]];
  const names = [...new Set(runs.flatMap((r) => r.details.environment.map((e) => e[0])))];
  for (const name of names) rows.push([name, (r) => (r.details.environment.find((e) => e[0] === name) || ["", ""])[1]]);
  const there = rows.filter(([, f]) => runs.some((r) => f(r)));
  section("environment", "Environment", el("div", {class: "card facts"}, table([{head: ""}, ...(several ? runs.map((_, i) => ({head: runName(i), class: "text"})) : [{head: "", class: "text"}])],
    there.map(([name, f]) => [el("span", {style: "color:var(--soft);white-space:nowrap"}, name), ...runs.map((r) => f(r) || "–")]))));
}
