// Draws the charts and the rollouts browser from the JSON in #data. All text goes in as text, never as HTML.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const { steps: STEPS, panels: PANELS } = DATA;
const SEVERAL = DATA.runs.length > 1;
const WIDTH = 440, HEIGHT = 190, LEFT = 48, RIGHT = 10, TOP = 10, BOTTOM = 24;

function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "path", "line", "circle", "text"].includes(tag);
  const element = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// ---------------------------------------------------------------- numbers and axes

function shown(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${(100 * value).toFixed(value && Math.abs(value) < 0.0995 ? 1 : 0)} %`;
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 1e-3) return value.toExponential(1);
  return String(+value.toPrecision(3));
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(+at.toPrecision(12));
  return found;
}

function powers(low, high) { // of ten; 1, 2 and 5 times them where there are few
  const found = [];
  for (let power = Math.floor(low); power <= high; power++)
    for (const digit of high - low < 2 ? [1, 2, 5] : [1]) {
      const at = power + Math.log10(digit);
      if (at >= low && at <= high) found.push([at, +(digit * 10 ** power).toPrecision(3)]);
    }
  return found.filter((_, i) => i % Math.ceil(found.length / 6) === 0);
}

const known = (value) => value !== null && value !== undefined;
const xOf = (one) => (Array.isArray(one.x) ? one.x : STEPS[one.x]);

function extent(values, zero) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (known(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const room = (high - low) * 0.04;
  return [zero && low === 0 ? 0 : low - room, high + room];
}

// ---------------------------------------------------------------- a chart

const charts = [];

function chart(panel, marks = []) {
  const series = panel.series.map((one) => ({ ...one, x: xOf(one), top: one.y }));
  if (panel.stack) {
    let below = series[0].y.map(() => 0);
    for (const one of series) one.top = below = below.map((sum, i) => sum + (one.y[i] ?? 0));
  }
  const names = [...new Set(series.map((one) => one.name))];
  const several = SEVERAL && !panel.own; // then a colour is a run
  const colour = (one) => `var(--c${(several ? one.run : names.indexOf(one.name)) % 8})`;
  const dash = (one) => (several ? ["", "6 4", "2 3", "9 3 2 3"][names.indexOf(one.name) % 4] : "");
  const scale = panel.log ? (value) => (known(value) && value > 0 ? Math.log10(value) : null) : (value) => value;
  const [x0, x1] = extent(series.flatMap((one) => one.x), false);
  const [y0, y1] = extent(series.flatMap((one) => one.top.map(scale)), !panel.log && panel.unit !== "");
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${panel.title} by step` });
  for (const [y, label] of panel.log ? powers(y0, y1) : ticks(y0, y1, 5).map((at) => [at, at])) {
    svg.append(make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y), stroke: "var(--line)" }));
    svg.append(make("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, shown(label, panel.unit)));
  }
  const whole = (x) => panel.across || Number.isInteger(x);
  for (const x of ticks(x0, x1, 5).filter(whole))
    svg.append(make("text", { x: px(x), y: HEIGHT - 8, "text-anchor": "middle" }, shown(x, panel.across)));
  for (const x of marks)
    svg.append(make("line", { x1: px(x), x2: px(x), y1: TOP, y2: HEIGHT - BOTTOM, stroke: "var(--bad)", "stroke-dasharray": "2 3" }));
  series.forEach((one, place) => {
    const points = one.x.map((x, i) => [x, scale(one.top[i]), i]).filter(([, y]) => known(y));
    const sparse = points.length < one.x.length / 2 || points.length < 2 || one.dots;
    let path = "", last = -2;
    for (const [x, y, i] of points) {
      path += `${sparse || last === i - 1 ? (path ? "L" : "M") : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
      last = i;
    }
    const line = { fill: "none", stroke: colour(one), "stroke-width": 1.8, "stroke-dasharray": dash(one), "stroke-linejoin": "round" };
    if (panel.stack) {
      const base = place ? series[place - 1].top : null;
      const back = points.map(([x, , i]) => `L${px(x).toFixed(1)} ${py(base ? base[i] : 0).toFixed(1)}`).reverse().join("");
      svg.append(make("path", { d: `${path.replace(/(?!^)M/g, "L")}${back}Z`, fill: colour(one), "fill-opacity": 0.75 }));
    } else svg.append(make("path", { d: path, ...line }));
    if (sparse) for (const [x, y] of points) svg.append(make("circle", { cx: px(x), cy: py(y), r: 2.6, fill: colour(one) }));
  });
  const cursor = make("line", { y1: TOP, y2: HEIGHT - BOTTOM, stroke: "var(--soft)", visibility: "hidden" });
  svg.append(cursor);
  const values = series.map((one) => make("b", several ? { title: DATA.runs[one.run], style: { color: colour(one) } } : {}));
  const keys = make("div", { class: "keys" }, ...names.map((name) => {
    const mine = series.filter((one) => one.name === name), style = { "": "", "6 4": "dashed" }[dash(mine[0])] ?? "dotted";
    const shades = mine.flatMap((one) => [values[series.indexOf(one)], " "]);
    return make("span", {}, make("i", { class: style, style: { borderColor: several ? "var(--soft)" : colour(mine[0]) } }), `${name} `, ...shades);
  }));
  function at(x) { // x null: the newest known values
    series.forEach((one, i) => {
      let best = -1;
      one.x.forEach((value, j) => {
        if (known(one.y[j]) && (best < 0 || x === null || Math.abs(value - x) < Math.abs(one.x[best] - x))) best = j;
      });
      values[i].textContent = panel.across ? "" : shown(one.y[best], panel.unit);
    });
    cursor.setAttribute("visibility", x === null || x < x0 || x > x1 ? "hidden" : "visible");
    if (x !== null) { cursor.setAttribute("x1", px(x)); cursor.setAttribute("x2", px(x)); }
    when.textContent = x === null || panel.across ? "" : `step ${x.toLocaleString("en")}`;
  }
  const when = make("small");
  const mine = { at, shared: !panel.across && !panel.own };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = x0 + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (x1 - x0);
    let nearest = null;
    for (const one of series) for (const value of one.x) if (nearest === null || Math.abs(value - x) < Math.abs(nearest - x)) nearest = value;
    for (const other of mine.shared ? charts.filter((one) => one.shared) : [mine]) other.at(nearest);
  });
  svg.addEventListener("pointerleave", () => (mine.shared ? charts : [mine]).forEach((other) => other.at(null)));
  at(null);
  if (mine.shared) charts.push(mine);
  return make("div", { class: "panel" }, make("h3", {}, `${panel.title} `, when), keys, svg, panel.note ? make("p", {}, panel.note) : null);
}

if (SEVERAL)
  document.getElementById("charts").before(make("div", { class: "keys runs" },
    ...DATA.runs.map((name, i) => make("span", {}, make("i", { style: { borderColor: `var(--c${i % 8})` } }), name))));
for (const panel of PANELS) {
  const marks = SEVERAL || panel.across ? [] : DATA.warnings[0];
  document.getElementById("charts").append(chart(panel, marks));
}

// ---------------------------------------------------------------- rollouts

const FILTERS = {
  "all": () => true,
  "surprising": (group) => Math.abs(group.z ?? 0) >= 2,
  "truncated": (group) => group.samples.some((one) => one.finish === "length"),
  "unscorable": (group) => group.samples.some((one) => one.verdict === null),
  "unparseable": (group) => group.samples.some((one) => one.unparseable),
  "never right": (group) => group.prompt.history.some((visit) => visit[3]) && group.prompt.history.every((visit) => visit[2] === 0),
  "largest |advantage|": (group) => group.largest > 0,
};
const ORDERS = { "surprising": (group) => -Math.abs(group.z), "largest |advantage|": (group) => -group.largest };
const PAGE = 20;

function unpacked(data) {
  const prompts = data.prompts.map(([key, text, reference, history]) => ({ key, text, reference, history }));
  return data.groups.map(([prompt, step, origin, believed, sd, z, rows]) => {
    const samples = rows.map(([text, verdict, score, advantage, finish, tokens, outcome, unparseable, detail, components, shades]) =>
      ({ text, verdict, score, advantage, finish, tokens, outcome, unparseable, detail, components, shades }));
    const largest = Math.max(0, ...samples.map((one) => Math.abs(one.advantage ?? 0)));
    return { prompt: prompts[prompt], step, origin, believed, sd, z, samples, largest };
  });
}

function browser(root) {
  const place = { run: DATA.rollouts.findIndex((one) => one), filter: "all", step: null, prompt: null, words: "", count: PAGE, shade: true };
  const groups = DATA.rollouts.map((one) => (one ? unpacked(one) : []));
  const list = make("div"), tools = make("div", { class: "tools" }), buttons = make("div", { class: "tools" }), rule = make("p"), found = make("p", { role: "status" });
  const set = (changes) => { Object.assign(place, { count: PAGE }, changes); render(); };
  if (SEVERAL)
    tools.append(make("select", { "aria-label": "run", onchange: (event) => set({ run: +event.target.value, prompt: null }) },
      ...DATA.runs.map((name, i) => make("option", { value: i, selected: i === place.run || null, disabled: !DATA.rollouts[i] }, name))));
  const step = make("input", { type: "number", min: 1, placeholder: "any", oninput: (event) => set({ step: event.target.value === "" ? null : +event.target.value }) });
  tools.append(
    make("input", { type: "search", placeholder: "search prompts, answers, completions", "aria-label": "search", oninput: (event) => set({ words: event.target.value.toLowerCase() }) }),
    make("label", {}, "step ", step),
    make("label", {}, make("input", { type: "checkbox", checked: "", onchange: (event) => set({ shade: event.target.checked }) }), " shade unlikely tokens"));
  root.append(rule, tools, buttons, found, list);

  function matching() {
    const wanted = FILTERS[place.filter], order = ORDERS[place.filter], words = place.words;
    const holds = (text) => text.toLowerCase().includes(words);
    const kept = groups[place.run].filter((group) => wanted(group)
      && (place.step === null || group.step === place.step) && (place.prompt === null || group.prompt === place.prompt)
      && (!words || holds(group.prompt.text) || holds(group.prompt.reference) || group.samples.some((one) => holds(one.text) || holds(one.detail))));
    return order ? kept.sort((a, b) => order(a) - order(b)) : kept.reverse();
  }
  function render() {
    const all = groups[place.run], data = DATA.rollouts[place.run], kept = matching();
    rule.textContent = `${data.shown.toLocaleString("en")} of ${data.total.toLocaleString("en")} rollouts. ${data.rule}`;
    buttons.replaceChildren(...Object.entries(FILTERS).map(([name, wanted]) => {
      const count = all.filter(wanted).length;
      return make("button", { "aria-pressed": String(name === place.filter), disabled: count ? null : "", onclick: () => set({ filter: name }) }, `${name} ${count.toLocaleString("en")}`);
    }));
    found.textContent = `${kept.length.toLocaleString("en")} groups` + (ORDERS[place.filter] ? ", the largest first" : ", the newest first");
    if (place.prompt) found.append(` of prompt ${place.prompt.key} `, make("button", { onclick: () => set({ prompt: null }) }, "all prompts"));
    list.replaceChildren(...kept.slice(0, place.count).map((group) => card(group)));
    if (place.prompt && kept.length) list.prepend(story(place.prompt));
    if (kept.length > place.count) list.append(make("button", { onclick: () => set({ count: place.count + 5 * PAGE }) }, "more"));
  }
  function card(group) {
    const right = group.samples.filter((one) => one.verdict === 1).length, judged = group.samples.filter((one) => one.verdict !== null).length;
    const belief = group.believed === null ? "no belief" : `believed ${shown(group.believed, "share")}` + (group.sd === null ? "" : ` ± ${shown(group.sd, "share")}`);
    const box = make("details", {}, make("summary", {},
      make("span", { class: "text" }, group.prompt.text.trim().slice(0, 300)),
      make("span", { class: "fact" }, `step ${group.step} · ${group.origin} · ${belief} · right ${right} of ${judged}` + (group.largest ? ` · |A| ${shown(group.largest)}` : ""))));
    box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(inside(group)); });
    return box;
  }
  function inside(group) {
    const visits = group.prompt.history.length;
    return make("div", { class: "inside" },
      make("p", { class: "text" }, group.prompt.text),
      make("p", {}, make("small", {}, "reference: "), make("span", { class: "text" }, group.prompt.reference), " ",
        place.prompt ? null : make("button", { onclick: () => { set({ prompt: group.prompt, filter: "all", step: null, words: "" }); step.value = ""; } }, `history: ${visits} visit${visits > 1 ? "s" : ""}`)),
      make("div", { class: "samples" }, ...group.samples.map(sample)));
  }
  function sample(one) {
    const verdict = one.verdict === null ? "no verdict" : one.verdict ? "right" : "wrong";
    const facts = [`score ${shown(one.score)}`, `advantage ${shown(one.advantage)}`, `${one.tokens} tokens`, one.outcome.replace("_", " ")];
    if (one.finish === "length") facts.push("cut off");
    const parse = [one.unparseable ? "no readable answer" : "", one.detail, ...Object.entries(one.components).map(([name, value]) => `${name} ${shown(value)}`)].filter(Boolean);
    return make("div", { class: `sample ${one.verdict === null ? "" : verdict}` },
      make("p", {}, make("b", {}, verdict), ` · ${facts.join(" · ")}`),
      parse.length ? make("p", {}, `verifier: ${parse.join("; ")}`) : null,
      make("div", { class: "text", tabindex: 0 }, ...(place.shade && one.shades.length ? shaded(one) : [one.text || "(empty)"])));
  }
  function shaded(one) {
    const letters = Array.from(one.text), spans = []; // characters as Python counts them
    for (let i = 0, at = 0; i < one.shades.length; at += one.shades[i + 1], i += 2) {
      const level = one.shades[i], text = letters.slice(at, at + one.shades[i + 1]).join("");
      const title = `probability ${level === 9 ? "below" : "about"} ${shown(Math.exp(-(level + (level < 9) / 2) / 2), "share")}`;
      spans.push(level ? make("span", { title, style: { background: `rgb(var(--shade) / ${0.08 * level})` } }, text) : text);
    }
    return spans;
  }
  function story(prompt) {
    const x = prompt.history.map((visit) => visit[0]);
    const series = [
      { name: "believed", run: 0, x, y: prompt.history.map((visit) => visit[1]), dots: true },
      { name: "realised", run: 0, x, y: prompt.history.map((visit) => (visit[3] ? visit[2] / visit[3] : null)), dots: true },
    ];
    return make("div", { class: "history" }, chart({ title: "Pass rate of this prompt", unit: "share", own: true, series }));
  }
  render();
}

if (document.getElementById("rollouts")) browser(document.getElementById("rollouts"));
