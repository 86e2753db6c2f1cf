"use strict";
// The behaviour of a report: the map and the table of heads, and the page of one head.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.heads.map((head) => [head.id, head]));
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
const mean = (values) => values.reduce((a, b) => a + b) / values.length;
const middle = (values) => mean([...values].sort((a, b) => a - b).slice((values.length - 1) >> 1, (values.length >> 1) + 1));

function number(value, digits = 2, sign = false) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value < -10) return "< −10";
  const text = value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
  return ((sign && !text.startsWith("-") ? "+" : "") + text).replace("-", "−");
}

// Undo report.py's packed.
async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The pieces of a program with their classes, by report_text.py's lexeme_classes.
const LEXEME = new RegExp(data.lexemes.map(([, pattern], i) => `(?<k${i}>${pattern})`).join("|"), "g");
function lexemes(source) {
  const pieces = [];
  let end = 0;
  for (const found of source.matchAll(LEXEME)) {
    const [kind] = Object.entries(found.groups).find(([, text]) => text !== undefined);
    pieces.push(["", source.slice(end, found.index)], [data.lexemes[+kind.slice(1)][0], found[0]]);
    end = found.index + found[0].length;
  }
  return [...pieces, ["", source.slice(end)]].filter(([, text]) => text);
}

// A program's terms on one line.
function terms(source) {
  const body = ("\n" + source).split("\nhead ").slice(1).join("\nhead ").split("\n").slice(1);
  return body.map((line) => line.trim()).filter((line) => line && !line.startsWith("#")).join(";  ") || "no terms: uniform";
}

// A program with the definitions that it uses, also by others, in place of their file.
function selfContained({ program, full }) {
  if (full || !program.includes("use ")) return full || program;
  const own = program.replace(/^use .*\n\n?/gm, "").split("\n\n"), used = new Set();
  const named = (text) => new Set(text.match(/\b\w+\b/g));
  for (let words = named(own.join("\n")), before = -1; used.size > before; ) {
    before = used.size;
    for (const one of data.definitions.filter((one) => words.has(one.match(/^(?:#.*\n)*\w+ (\w+)/)?.[1]))) {
      used.add(one);
      words = new Set([...words, ...named(one)]);
    }
  }
  return [...own.slice(0, -1), ...data.definitions.filter((one) => used.has(one)), own.at(-1)].join("\n\n");
}

// Which heads a filter leaves: all its words occur, all its comparisons (iou>0.7) hold.
const FIELDS = {
  iou: (head) => head.iou[0], r2: (head) => head.r2[0], nodes: (head) => head.nodes, gain: (head) => head.gain,
  jsd: (head) => head.jsd, top1: (head) => head.top1, layer: (head) => head.layer,
};
for (const head of data.heads) {
  const flags = (head.ahead.length ? ["lookahead"] : []).concat(head.cut ? ["cut short"] : []);
  head.line = terms(head.program);
  head.text = [head.id, head.category, head.control[0], ...flags, head.program.replace(/^head .*$/m, "")].join("\n").toLowerCase();
}
function matcher(filter) {
  const tests = filter.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const found = word.match(/^(\w+)([<>])(-?\d*\.?\d+)$/), field = FIELDS[found?.[1]];
    if (/^l\d+$/.test(word)) return (head) => head.layer === Number(word.slice(1));
    if (!field) return (head) => head.text.includes(word);
    return (head) => field(head) !== null && (found[2] === "<" ? field(head) < found[3] : field(head) > found[3]);
  });
  return (head) => tests.every((test) => test(head));
}

// The page of a head: figures of its front, and square matrices on its texts, of the head (0) and of each program.
async function unpackPage(head) {
  const [detail, maps] = await Promise.all([inflate(head.detail), inflate(head.maps)]);
  const page = JSON.parse(new TextDecoder().decode(detail));
  let at = 0;
  for (const example of page.examples) {
    const { n } = example, entries = data.causal ? (n * (n + 1)) / 2 : n * n;
    example.maps = [];
    for (let m = 0; m < page.front.length + 1; m++, at += entries) {
      if (m > 1) for (let i = at; i < at + entries; i++) maps[i] += maps[i - entries];
      const map = new Float32Array(n * n);
      for (let q = 0, i = at; q < n; q++) for (let k = 0; k < (data.causal ? q + 1 : n); k++) map[q * n + k] = (maps[i++] / 255) ** 2;
      example.maps.push(map);
    }
  }
  return page;
}

// Of each query, which share of the sizes of all that it sums up comes from each key.
function shares(map, norms) {
  const n = norms.length, out = map.map((weight, i) => weight * norms[i % n]);
  for (let q = 0; q < n; q++) {
    const row = out.subarray(q * n, (q + 1) * n), sum = row.reduce((a, b) => a + b, 0);
    if (sum) row.forEach((x, k) => (row[k] = x / sum));
  }
  return out;
}

// --- the page ---

const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const on = (nodes, name, act) => nodes.forEach((node) => node.addEventListener(name, (event) => act(node, event)));

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  node.append(...children);
  return node;
}
const make = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => build(document.createElementNS(find("svg").namespaceURI, tag), attributes, children);
const press = (buttons, chosen) => buttons.forEach((button) => button.setAttribute("aria-pressed", button === chosen));

// Colours: ramps of even lightness, from the page's ground up; two for each scheme.

const RAMPS = {
  light: {
    weight: "fbfcfc a7ebec 62d2e5 21b4dd 0193cd 1c72b5 2c5394 2d386d 242144",
    change: "8c3701 b4623b d29377 ebc5b4 fafafa b6d1ee 7aa8d8 3d7fbf 035798",
  },
  dark: {
    weight: "1f2028 29324f 284c7a 056b9e 048bb0 0cacc0 2dcdcd 81e7d4 c5fee3",
    change: "ffa659 c38046 8a5d36 543c28 1f2024 2c4458 3e6d93 5298d1 80c5ff",
  },
};
const TONES = "0072b2 e69f00 009e73 cc79a7 56b4e9 d55e00 9a8c00 7a5cc0 8c6d5a".split(" ");
const scheme = matchMedia("(prefers-color-scheme: dark)");
const rgb = (hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
const ramp = (name) => RAMPS[scheme.matches ? "dark" : "light"][name].split(" ").map(rgb);
const gradient = (stops) => `linear-gradient(90deg, ${stops.map((stop) => `rgb(${stop})`).join(", ")})`;

// The colour of a number from 0 to 1 between the stops of a ramp.
function colour(stops, x) {
  const at = clamp(x, 0, 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((from, i) => Math.round(from + (stops[low + 1][i] - from) * (at - low)));
}

// Colour an element, its text in black or white; null takes the colours away.
function paint(node, tint) {
  const [r, g, b] = (tint ?? []).map((v) => (v / 255) ** 2.2);
  node.style.background = tint ? `rgb(${tint})` : "";
  node.style.color = tint ? (0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2 ? "#10141c" : "#fff") : "";
}

const tone = (category) => "#" + (TONES[data.categories.indexOf(category)] ?? "8c8c8c");
const chip = (category) => make("span", { class: "chip", style: `--tone: ${tone(category)}` }, category || "none");
for (const node of all("[data-category]")) node.style.setProperty("--tone", tone(node.dataset.category));

// A drawing with labelled axes; x and y place a value.
function plot(width, height, across, up) {
  const svg = draw("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${up.label} by ${across.label}` });
  const x = (value) => 46 + ((width - 58) * value) / across.high, y = (value) => height - 40 - (height - 50) * clamp(value, 0, 1);
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(draw("path", { class: "grid", d: `M46 ${y(value)}H${width - 12}` }), draw("text", { x: 40, y: y(value) + 3.5, "text-anchor": "end" }, value.toFixed(2)));
  }
  const step = [0.25, 1, 2, 5, 10, 20, 50, 100, 200, 500].find((one) => across.high / one <= 7) ?? 1000;
  for (let value = 0; value <= across.high; value += step) svg.append(draw("text", { x: x(value), y: height - 24, "text-anchor": "middle" }, value));
  svg.append(
    draw("text", { x: (width + 34) / 2, y: height - 6, "text-anchor": "middle", class: "axis" }, across.label),
    draw("text", { transform: `translate(11 ${(height - 30) / 2}) rotate(-90)`, "text-anchor": "middle", class: "axis" }, up.label));
  return { svg, x, y };
}

// A line that keeps each value until the next.
const stairs = (points, x, y) => points.map(([at, value], i) => (i ? `H${x(at)}V${y(value)}` : `M${x(at)} ${y(value)}`)).join("");
const told = (head) => `${head.id}: ${head.category}, IoU ${number(head.iou[0], 3)}, ${head.r2[0] === null ? "" : `output R² ${number(head.r2[0], 3)}, `}${head.nodes} nodes`;
const places = new Map(data.heads.map((head) => [head.id, []])); // of each head, its cell in the map and its dots

function scatter(root, across, value, up) {
  const { svg, x, y } = plot(440, 260, across, { label: up });
  for (const head of data.heads) {
    const [right, top] = value(head);
    if (right === null || top === null) continue;
    const dot = draw("circle", { cx: x(right), cy: y(top), r: 3.6, style: `--tone: ${tone(head.category)}` }, draw("title", {}, told(head)));
    const link = draw("a", { href: "#" + head.id, tabindex: -1 }, dot);
    places.get(head.id).push(link);
    svg.append(link);
  }
  root.replaceChildren(svg);
  return { svg, x, y };
}

if (find("#size-plot")) {
  const high = Math.max(1, ...data.heads.map((head) => head.nodes), ...data.curve.map(([nodes]) => nodes));
  const { svg, x, y } = scatter(find("#size-plot"), { label: "nodes of the program", high }, (head) => [head.nodes, head.iou[0]], "test IoU");
  if (data.curve.length) svg.append(draw("path", { class: "curve", d: stairs(data.curve, x, y) + `H${x(high)}` }));
}
if (find("#output-plot")) scatter(find("#output-plot"), { label: "test IoU", high: 1 }, (head) => [head.iou[0], head.r2[0]], "output R²");

// The map of heads: views of the same cells. Output R² has no lower end, so its rows have medians.

const cells = all("#map a");
for (const cell of cells) places.get(cell.dataset.id).push(cell);
const largest = (name) => Math.max(1e-9, ...data.heads.map((head) => Math.abs(FIELDS[name](head) ?? 0)));
const VIEWS = {
  iou: { ramp: "weight", text: (x) => number(x), low: 0, high: 1 },
  r2: { ramp: "weight", text: (x) => number(x), low: 0, high: 1, median: true },
  gain: { ramp: "change", text: (x) => number(x, 2, true), low: -largest("gain"), high: largest("gain") },
  nodes: { ramp: "weight", text: (x, mean) => number(x, mean ? 1 : 0), low: 0, high: largest("nodes") },
};
let view = "iou";

function drawMap() {
  const kinds = view === "category", { ramp: name, text, low, high, median } = VIEWS[view] ?? {};
  const stops = kinds ? null : ramp(name), legend = make("i"), narrow = find("#map.narrow");
  find("#map thead .mean").textContent = kinds ? "" : median ? "median" : "mean";
  for (const row of all("#map tbody tr")) {
    const values = [];
    for (const cell of all("a", row)) {
      const head = byId.get(cell.dataset.id);
      if (kinds) {
        cell.textContent = narrow ? head.category.slice(0, 2) : head.category;
        paint(cell, rgb(tone(head.category).slice(1)));
      } else {
        const value = FIELDS[view](head);
        cell.textContent = text(value);
        paint(cell, value === null ? null : colour(stops, (value - low) / (high - low)));
        if (value !== null) values.push(value);
      }
      cell.title = told(head);
      cell.setAttribute("aria-label", told(head));
    }
    find(".mean", row).textContent = values.length ? text((median ? middle : mean)(values), true) : "";
  }
  if (!kinds) legend.style.background = gradient(stops);
  find("#map-legend").replaceChildren(...(kinds ? data.categories.map(chip) : [text(low), legend, text(high)]));
}

on(all("#views button"), "click", (button) => { view = button.dataset.view; press(all("#views button"), button); drawMap(); });

// Programs in colours; names of shared scores link to them.

const scores = new Map(data.scores.map((score) => [score.name, score]));
const piece = ([kind, text]) =>
  !kind ? text : kind === "t" && scores.has(text) ? make("a", { class: "t", href: "#score-" + text }, text) : make("b", { class: kind }, text);
const coloured = (source) => lexemes(source).map(piece);
on(all("details:has(pre.program)"), "toggle", (root) => {
  if (root.open) for (const pre of all("pre.program:not(.done)", root)) pre.replaceChildren(...coloured(pre.textContent)), pre.classList.add("done");
});

// Shared scores: a text coloured by each; the filter finds the heads that use one.

function drawScore(root) {
  const { text, values } = scores.get(root.dataset.score), low = Math.min(...values), high = Math.max(...values);
  const stops = ramp("weight"), bar = make("i"), line = make("div");
  bar.style.background = gradient(stops);
  values.forEach((value, at) => {
    const token = data.texts[text][at], mark = make("span", { class: "tok", title: number(value) }, ...showToken(token));
    paint(mark, colour(stops, (value - low) / Math.max(high - low, 1e-9)));
    line.append(mark, make(token.includes("\n") ? "br" : "wbr"));
  });
  find(".example", root).replaceChildren(line, make("div", { class: "scale" }, number(low), bar, number(high)));
}

const drawScores = () => all(".score[data-score][open]").forEach(drawScore);
on(all(".score[data-score]"), "toggle", (root) => root.open && drawScore(root));
on(all(".on-map"), "click", (link) => { find("#filter").value = link.closest(".score").dataset.score + "("; arrange(); });

// The table of heads. Only the rows in sight are elements, so that filtering and sorting cost no more for many heads.

const ROW = 31;
const known = data.heads.some((head) => head.r2[0] !== null);
const percent = (x) => (100 * clamp(x ?? 0, 0, 1)).toFixed(1);
function interval([value, low, high], rival) {
  const title = `${number(low, 3)} to ${number(high, 3)}; best control ${number(rival, 3)}`;
  return draw("svg", { class: "interval", viewBox: "0 0 100 12" }, draw("title", {}, title), draw("path", { class: "track", d: "M0 6H100" }),
    ...(low !== null && high !== null ? [draw("path", { class: "range", d: `M${percent(low)} 6H${percent(high)}` })] : []),
    ...(rival !== null ? [draw("path", { class: "rival", d: `M${percent(rival)} 1V11` })] : []),
    ...(value !== null ? [draw("circle", { cx: percent(value), cy: 6, r: 2.6 })] : []));
}
const flags = (head) => [
  ...(head.ahead.length ? [make("span", { class: "flag", title: `Reads past the query: ${head.ahead.join(", ")}` }, "lookahead")] : []),
  ...(head.cut ? [make("span", { class: "flag", title: "The time ran out before its search ended" }, "cut short")] : []),
];
const figure = (key, digits = 3, sign = false) => (head) => [number(key(head), digits, sign)];
// Name, class, what is sorted by (null: nothing), which way first, content, explanation.
const COLUMNS = [
  ["head", "id", (head) => head.layer * 1e4 + head.head, 1, (head) => [make("a", { href: "#" + head.id }, head.id)]],
  ["program", "terms", (head) => head.line, 1, (head) => [make("code", {}, head.line.slice(0, 160))]],
  ["nodes", "number", FIELDS.nodes, 1, figure(FIELDS.nodes, 0), "Syntax nodes and set elements of the program"],
  ["IoU", "number", FIELDS.iou, -1, figure(FIELDS.iou)],
  ["interval", "span wide", null, 0, (head) => [interval(head.iou, head.control[1])]],
  ...(known ? [
    ["output R²", "number output", FIELDS.r2, -1, figure(FIELDS.r2), "Share of the variance of what the head writes that the program gives"],
    ["interval", "span wide", null, 0, (head) => [interval(head.r2, head.output[1])]],
  ] : []),
  ["no sink", "number wide", (head) => head.iou_no_sink, -1, figure((head) => head.iou_no_sink), "IoU without the first column"],
  ["JSD", "number wide", FIELDS.jsd, 1, figure(FIELDS.jsd), "Jensen–Shannon distance"],
  ["top-1", "number wide", FIELDS.top1, -1, figure(FIELDS.top1), "Queries whose strongest key is the same"],
  ["gain", "number wide", FIELDS.gain, -1, figure(FIELDS.gain, 3, true), "Test IoU above the best control's"],
  ["best control", "control wide", (head) => head.control[0], 1, (head) => [head.control[0] || "–", " ", make("small", {}, head.control[0] ? number(head.control[1]) : "")]],
  ["category", "kind", (head) => head.category, 1, (head) => [chip(head.category), ...flags(head)]],
];
const scroller = find("#heads-scroll"), body = find("#heads tbody");
let order = data.heads, shown = order, sorted = [0, 1], printing = false;

function drawRows() {
  const first = printing ? 0 : clamp(Math.floor(scroller.scrollTop / ROW) - 6, 0, shown.length), last = printing ? shown.length : Math.min(shown.length, first + Math.ceil(innerHeight / ROW) + 12);
  const space = (rows) => make("tr", { class: "space", style: `height: ${rows * ROW}px` });
  const rows = shown.slice(first, last).map((head) => {
    const row = make("tr", { "data-id": head.id }, ...COLUMNS.map(([, kind, , , content]) => make("td", { class: kind }, ...content(head))));
    row.lastChild.title = head.shares;
    return row;
  });
  body.replaceChildren(space(first), ...rows, space(shown.length - last));
}

function sort() {
  const [column, up] = sorted, key = COLUMNS[column][2];
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return up * (typeof x === "string" ? x.localeCompare(y) : x - y);
  };
  order = [...data.heads].sort(compare);
  arrange();
}

function arrange() {
  shown = order.filter(matcher(find("#filter").value));
  const left = new Set(shown);
  for (const head of data.heads) {
    if (head.off === !left.has(head)) continue;
    head.off = !left.has(head);
    for (const place of places.get(head.id)) place.classList.toggle("off", head.off);
  }
  find("#count").textContent = shown.length < data.heads.length ? `${shown.length} of ${data.heads.length}` : "";
  scroller.scrollTop = 0;
  drawRows();
}

find("#heads thead").append(make("tr", {}, ...COLUMNS.map(([name, kind, key, first, , title], column) => {
  const header = make("th", { scope: "col", class: kind, "aria-sort": column ? null : "ascending" }, key ? make("button", { title: title ?? null }, name) : make("span", {}, name));
  if (key) header.firstChild.addEventListener("click", () => {
    sorted = [column, sorted[0] === column ? -sorted[1] : first];
    for (const other of all("[aria-sort]", header.parentNode)) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sorted[1] > 0 ? "ascending" : "descending");
    sort();
  });
  return header;
})));
find("#filter").addEventListener("input", arrange);
scroller.addEventListener("scroll", drawRows, { passive: true });
body.addEventListener("click", (event) => (location.hash = event.target.closest("[data-id]")?.dataset.id ?? location.hash));

// Tokens as text: white space and other invisible characters made visible.

const VISIBLE = { " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "": "∅" };
const ODD = /([\s\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])/;

function showToken(token) {
  const pieces = token === "" ? [""] : token.split(ODD).filter(Boolean);
  return pieces.map((piece) => {
    const odd = piece in VISIBLE || ODD.test(piece);
    return odd ? make("s", {}, VISIBLE[piece] ?? "\\u" + piece.charCodeAt(0).toString(16).padStart(4, "0")) : piece;
  });
}

async function copy(text, button) {
  const name = button.textContent, say = (word) => (button.textContent = word);
  await navigator.clipboard.writeText(text).then(() => say("copied"), () => say("not allowed to copy"));
  setTimeout(() => say(name), 1500);
}

// The page of one head: its front, the chosen program of it, and both on a text.
class HeadPage {
  constructor(head, page, nodes) {
    Object.assign(this, { head, page, at: page.front.findIndex((row) => row.chosen), share: false, pinned: null });
    const asked = page.front.findIndex((row) => row.nodes === nodes);
    this.at = asked < 0 ? Math.max(this.at, 0) : asked;
    this.title = make("h3");
    this.program = make("pre", { class: "program", tabindex: 0, "aria-label": "The program" });
    this.told = make("p", { class: "told" });
    this.terms = make("div");
    this.rows = page.front.map((row, at) => this.frontRow(row, at));
    this.chart = make("div");
    this.readout = make("div", { class: "readout", "aria-live": "polite" });
    this.strips = make("div");
    this.size = make("span", { class: "caption" });
    this.frames = ["head", "program", "difference"].map((name) => this.frame(name));
    this.tabs = page.examples.map((example, index) => this.button(index ? "worst text " : "best text ", () => this.openText(index)));
    this.modes = ["attention", "share of output"].map((name, share) => this.button(name, () => this.showShares(Boolean(share))));
  }

  button(name, act, attributes = {}) {
    const button = make("button", attributes, name);
    button.addEventListener("click", () => act(button));
    return button;
  }

  elements() {
    const { head, page } = this, order = shown.includes(head) ? shown : data.heads, place = order.indexOf(head);
    const way = (to, text, rel) => (to ? [make("a", { href: "#" + to.id, rel }, text(to.id))] : []);
    const value = (name, [value, low, high], [control, rival]) => [
      make("span", { class: "figure" }, `${name} `, make("b", {}, number(value, 3)), make("small", {}, value === null ? "" : ` [${number(low, 3)}, ${number(high, 3)}]`)),
      ...(control ? [make("span", { class: "figure" + (value < rival ? " below" : "") }, number(value - rival, 3, true), make("small", {}, ` against ${control}`))] : []),
    ];
    const bar = (name, kind, iou, r2) => make("tr", { class: kind }, make("th", { scope: "row" }, name), make("td", { class: "rail" }, make("i", { style: `width: ${percent(iou)}%` })), ...[iou, ...(known ? [r2] : [])].map((x) => make("td", { class: "number" }, number(x))));
    const heads = (...names) => make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col", class: name === "program" ? null : "number" }, name))));
    const switches = (name, buttons) => make("div", { class: "switch", role: "group", "aria-label": name }, ...buttons);
    return [
      make("div", { class: "bar" },
        make("h2", { tabindex: -1 }, head.id), ...value("IoU", head.iou, head.control), ...(known ? value("output R²", head.r2, head.output) : []),
        chip(head.category), ...flags(head), this.button("copy link", (button) => copy(location.href, button), { class: "act" }),
        make("nav", { class: "end", "aria-label": "Heads" }, ...way(order[place - 1], (id) => `← ${id}`, "prev"), ...way(order[place + 1], (id) => `${id} →`, "next"), make("a", { href: "#map-title" }, "↑ all heads"))),
      make("div", { class: "columns" },
        make("div", {},
          make("div", { class: "bar" }, this.title, this.button("smaller", () => this.choose(this.at - 1), { class: "act", title: "Key −" }), this.button("larger", () => this.choose(this.at + 1), { class: "act", title: "Key +" }),
            this.button("copy program", (button) => copy(selfContained(page.front[this.at]), button), { class: "act end" })),
          this.program, this.told, this.terms),
        make("div", {},
          make("h3", {}, "The best program of each size"), this.chart,
          make("div", { class: "scroll rows", tabindex: 0 }, make("table", { class: "frontrows" }, heads("nodes", "IoU select", "IoU test", ...(known ? ["R² select", "R² test"] : []), "program"), make("tbody", {}, ...this.rows))),
          make("h3", {}, "Against the controls"),
          make("table", { class: "bars small" }, make("thead", {}, make("tr", {}, make("td", { colspan: 2 }), ...["test IoU", ...(known ? ["output R²"] : [])].map((name) => make("td", { class: "number" }, name)))),
            make("tbody", {}, bar("program", "program", head.iou[0], head.r2[0]), ...page.controls.map(([name, iou, r2]) => bar(name, "control", iou, r2)))),
          make("p", { class: "caption" }, `No sink ${number(head.iou_no_sink, 3)}, JSD ${number(head.jsd, 3)}, top-1 ${number(head.top1, 3)}; searched for ${number(page.seconds, 1)} s. ${head.shares ? `Categories: ${head.shares}.` : ""}`))),
      ...(page.examples.length && page.front.length ? [
        make("h3", {}, "On test texts"),
        make("div", { class: "bar" }, switches("Test text", this.tabs), ...(page.examples[0].norms ? [switches("Shown in the matrices", this.modes)] : []), this.size),
        make("div", { class: "matrices" }, ...this.frames.map((frame) => frame.figure)), this.readout, this.strips] : []),
    ];
  }

  frontRow(row, at) {
    const cells = [row.nodes, ...[row.iou[1], row.iou[2], ...(known ? row.r2 : [])].map((x) => number(x, 3))];
    const line = make("tr", { tabindex: 0, role: "button", "aria-label": `Program of ${row.nodes} nodes` }, ...cells.map((text) => make("td", { class: "number" }, text)), make("td", { class: "terms" }, make("code", {}, terms(row.program).slice(0, 120))));
    line.addEventListener("click", () => this.choose(at));
    line.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") this.choose(at), event.preventDefault(); });
    return line;
  }

  // Show another program of the front: source, worths, explanation, figures and matrices follow.
  choose(at) {
    const { head, page } = this;
    this.at = clamp(at, 0, page.front.length - 1);
    const row = page.front[this.at] ?? { program: head.program, nodes: head.nodes, told: "", chosen: true, iou: [], r2: [] };
    const worths = row.chosen ? page.terms : [], byLine = new Map();
    for (const [line, , share] of worths) byLine.set(line, (byLine.get(line) ?? 0) + share);
    let line = -1, inside = false;
    this.program.replaceChildren(...row.program.trimEnd().split("\n").map((text) => {
      if (inside && /^ {4}[^#\s]/.test(text)) line++;
      const share = inside && /^ {4}[^#\s]/.test(text) ? byLine.get(line) : undefined;
      inside ||= text.startsWith("head ");
      const worth = make("span", { class: "worth", title: share === undefined ? null : `worth ${number(100 * share, 0)} % of the program` }, ...(share === undefined ? [] : [make("i", { style: `width: ${percent(share)}%` }), `${number(100 * share, 0)} %`]));
      return make("span", { class: "line" }, ...(worths.length ? [worth] : []), make("code", {}, ...coloured(text), "\n"));
    }));
    const figures = [["IoU fit", row.iou[0]], ["select", row.iou[1]], ["test", row.iou[2]], ...(known ? [["output R² select", row.r2[0]], ["test", row.r2[1]]] : [])];
    this.title.textContent = `${row.chosen ? "Chosen program" : "Program"} of ${row.nodes} nodes`;
    this.told.replaceChildren(row.told, make("span", { class: "caption" }, figures.filter(([, x]) => x !== undefined).map(([name, x]) => `${name} ${number(x, 3)}`).join(", "), row.by ? `; proposed by ${row.by}` : ""));
    this.drawTerms(worths, row.chosen);
    this.rows.forEach((one, i) => (one.classList.toggle("chosen", i === this.at), one.setAttribute("aria-pressed", i === this.at)));
    const seen = this.rows[this.at], box = seen?.closest(".rows");
    if (box) box.scrollTop = clamp(box.scrollTop, seen.offsetTop - box.clientHeight + 40, seen.offsetTop - 40);
    this.drawChart();
    if (this.maps) this.draw();
    if (page.front.length) history.replaceState(null, "", "#" + head.id + (row.chosen ? "" : "/" + row.nodes));
  }

  drawTerms(worths, chosen) {
    if (!worths.length) return this.terms.replaceChildren(make("p", { class: "caption" }, chosen ? "" : "What terms are worth is measured for the chosen program."));
    const heads = ["share", "IoU", ...(known ? ["R²"] : []), "term"], titles = ["Of the program's score above uniform attention, on the select texts", "IoU lost on the select texts without the term, the others refitted", "Output R² lost likewise"];
    this.terms.replaceChildren(make("details", { open: worths.length < 9 }, make("summary", {}, "What each term is worth"),
      make("table", { class: "frontrows" }, make("thead", {}, make("tr", {}, ...heads.map((name, i) => make("th", { scope: "col", class: name === "term" ? null : "number", title: name === "term" ? null : titles[i] }, name)))),
        make("tbody", {}, ...[...worths].sort((a, b) => b[2] - a[2]).map(([, text, share, iou, r2]) => make("tr", {}, make("td", { class: "number" }, number(share)), make("td", { class: "number" }, number(iou, 3)), ...(known ? [make("td", { class: "number" }, number(r2, 3))] : []), make("td", {}, text[0].toUpperCase() + text.slice(1) + ".")))))));
  }

  drawChart() {
    const { front } = this.page;
    if (!front.length) return;
    const { svg, x, y } = plot(440, 190, { label: "nodes of the program", high: Math.max(...front.map((row) => row.nodes)) }, { label: known ? "test score" : "test IoU" });
    for (const [name, value] of [["iou", (row) => row.iou[2]], ...(known ? [["r2", (row) => row.r2[1]]] : [])]) {
      const rows = front.filter((row) => value(row) !== null);
      svg.append(draw("path", { class: `front ${name}`, d: stairs(rows.map((row) => [row.nodes, value(row)]), x, y) }));
      for (const row of rows) {
        const dot = draw("circle", { class: `${name}${row === front[this.at] ? " now" : ""}`, cx: x(row.nodes), cy: y(value(row)), r: row === front[this.at] ? 5.5 : 3.6 }, draw("title", {}, `${row.nodes} nodes: ${name === "iou" ? "IoU" : "output R²"} ${number(value(row), 3)}`));
        dot.addEventListener("click", () => this.choose(front.indexOf(row)));
        svg.append(dot);
      }
    }
    this.chart.replaceChildren(svg, ...(known ? [make("p", { class: "caption keys" }, make("b", { class: "iou" }, "IoU"), " and ", make("b", { class: "r2" }, "output R²"), " on the test texts; choose a point, or a row.")] : []));
  }

  frame(name) {
    const canvas = make("canvas"), row = make("i"), column = make("i"), pin = make("i", { class: "pin" }), bar = make("i"), difference = name === "difference";
    const frame = make("div", { class: "frame", tabindex: 0, role: "img", "aria-label": `Matrix of ${name}: arrow keys read it` }, canvas, row, column, pin);
    const scale = make("div", { class: "scale" }, ...(difference ? ["head more", bar, "program more"] : ["0", bar, "1  (√ scale)"]));
    const figure = make("figure", {}, make("figcaption", {}, difference ? "program − head" : name), make("div", { class: "axes" }, make("span", { class: "down" }, "query →"), frame, make("span", {}, "key →")), scale);
    const cell = (event) => {
      const box = canvas.getBoundingClientRect(), at = (x, length) => clamp(Math.floor((x / length) * this.n), 0, this.n - 1);
      return [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
    };
    frame.addEventListener("pointermove", (event) => this.point(...cell(event)));
    frame.addEventListener("pointerleave", () => this.point(null, null));
    frame.addEventListener("click", (event) => this.pin(cell(event)[0]));
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      const [q, k] = this.cursor ?? [this.pinned ?? 0, 0];
      this.point(clamp(q + step[0], 0, this.n - 1), clamp(k + step[1], 0, this.n - 1));
      event.preventDefault();
      event.stopPropagation();
    });
    return { name, figure, canvas, row, column, pin, bar };
  }

  openText(index) {
    const example = this.page.examples[index], text = data.texts[example.text];
    Object.assign(this, { example, n: example.n, tokens: text.slice(0, example.n), maps: example.maps, pinned: null });
    this.size.textContent = text.length > this.n ? `first ${this.n} of ${text.length} tokens` : `${this.n} tokens`;
    press(this.tabs, this.tabs[index]);
    this.makeStrips();
    this.draw();
  }

  showShares(share) { this.share = share; this.draw(); }

  makeStrips() {
    this.marks = {};
    this.strips.replaceChildren(...["head", "program"].map((name) => {
      const line = make("div"), marks = this.tokens.map((token) => make("span", { class: "tok" }, ...showToken(token)));
      on(marks, "click", (mark) => this.pin(marks.indexOf(mark)));
      on(marks, "pointerenter", (mark) => this.point(this.pinned, marks.indexOf(mark)));
      marks.forEach((mark, at) => line.append(mark, make(this.tokens[at].includes("\n") ? "br" : "wbr")));
      this.marks[name] = marks;
      line.addEventListener("pointerleave", () => this.point(null, null));
      return make("div", { class: "strip" }, make("span", {}, name), line);
    }));
  }

  draw() {
    const { n, maps, example } = this, room = this.frames[0].figure.clientWidth - 26, ratio = devicePixelRatio || 1;
    const own = { head: maps[0], program: maps[this.at + 1] }, side = (n * Math.max(1, Math.floor((Math.min(room > 0 ? room : 330, 400) * ratio) / n))) / ratio;
    this.weights = own;
    this.shares = example.norms && { head: shares(own.head, example.norms), program: shares(own.program, example.norms) };
    this.cell = side / n;
    press(this.modes, this.modes[Number(this.share)]);
    this.tabs.forEach((tab, i) => tab.replaceChildren(i ? "worst text " : "best text ", make("small", {}, `IoU ${number(this.page.examples[i].ious[this.at])}`)));
    const { head, program } = this.share ? this.shares : own;
    for (const { name, canvas, bar } of this.frames) {
      const change = name === "difference", stops = ramp(change ? "change" : "weight"), image = new ImageData(n, n);
      for (let i = 0; i < n * n; i++) {
        if (data.causal && i % n > Math.floor(i / n)) continue;
        const gap = program[i] - head[i], x = change ? 0.5 + 0.5 * Math.sign(gap) * Math.sqrt(Math.abs(gap)) : Math.sqrt((name === "head" ? head : program)[i]);
        image.data.set([...colour(stops, x), 255], 4 * i);
      }
      canvas.width = canvas.height = n;
      canvas.style.width = canvas.style.height = `${side}px`;
      canvas.getContext("2d").putImageData(image, 0, 0);
      bar.style.background = gradient(stops);
    }
    this.showPin();
    this.point(null, null);
  }

  place(box, k, q, width, height) {
    const [x, y, w, h] = [k, q, width, height].map((cells) => `${cells * this.cell}px`);
    box.style.cssText = `display: ${q === null || k === null ? "none" : "block"}; transform: translate(${x}, ${y}); width: ${w}; height: ${h}`;
  }

  showPin() { for (const { pin } of this.frames) this.place(pin, 0, this.pinned, this.n, 1); }

  // Show one cell; without one, the pinned row; without that, how to use this.
  point(q, k) {
    this.cursor = q === null || k === null ? null : [q, k];
    for (const { row, column } of this.frames) { this.place(row, 0, q, this.n, 1); this.place(column, k, q === null ? null : 0, 1, this.n); }
    const query = q ?? this.pinned, { head, program } = this.weights, parts = [];
    this.colourStrips(query);
    if (query === null) return this.readout.replaceChildren("Point at a cell for its weights; click on a row or a token to pin a query.");
    const entry = (label, value) => parts.push(make("span", {}, label + " ", value));
    const token = (label, at) => entry(`${label} ${at}`, make("code", {}, ...showToken(this.tokens[at])));
    token("query", query);
    if (k !== null && data.causal && k > query) entry(`key ${k}`, "is not visible");
    else if (k !== null) {
      const at = query * this.n + k;
      token("key", k);
      for (const [name, of] of [["weight", this.weights], ...(this.shares ? [["share of output", this.shares]] : [])]) {
        entry(`${name}: head`, make("b", {}, number(of.head[at], 3)));
        entry("program", make("b", {}, number(of.program[at], 3)));
        entry("difference", make("b", {}, number(of.program[at] - of.head[at], 3, true)));
      }
    }
    let low = 0, high = 0;
    for (let i = query * this.n; i < (query + 1) * this.n; i++) { low += Math.min(head[i], program[i]); high += Math.max(head[i], program[i]); }
    entry("IoU of the row", make("b", {}, number(low / high)));
    this.readout.replaceChildren(...parts);
  }

  colourStrips(query) {
    const stops = ramp("weight"), of = this.share ? this.shares : this.weights;
    for (const [name, marks] of Object.entries(this.marks)) {
      marks.forEach((mark, k) => {
        const unseen = query !== null && data.causal && k > query;
        mark.classList.toggle("query", k === query);
        mark.classList.toggle("unseen", unseen);
        paint(mark, query === null || unseen ? null : colour(stops, Math.sqrt(of[name][query * this.n + k])));
      });
    }
  }

  pin(q) { this.pinned = q === this.pinned ? null : q; this.showPin(); this.point(null, null); }
}

// The address chooses what is shown: #L11H6 a head, #L11H6/16 its program of 16 nodes, others a part of the overview.

const root = find("#page");
let current = null;

async function route() {
  const [, id, nodes] = location.hash.match(/^#(L\d+H\d+)(?:\/(\d+))?$/) ?? [], head = byId.get(id);
  const target = head ? null : document.getElementById(decodeURIComponent(location.hash.slice(1)));
  document.body.classList.toggle("one", Boolean(head));
  for (const cell of cells) cell.toggleAttribute("aria-current", cell.dataset.id === id);
  if (!head) {
    current = null;
    root.replaceChildren();
    document.title = document.body.dataset.title;
    target?.closest("details")?.setAttribute("open", "");
    target?.scrollIntoView();
    return drawRows();
  }
  document.title = `${id} · ${document.body.dataset.title}`;
  try {
    const page = await unpackPage(head);
    if (!location.hash.startsWith("#" + id)) return;
    current = new HeadPage(head, page, Number(nodes));
    root.replaceChildren(...current.elements());
    current.choose(current.at);
    if (page.examples.length && page.front.length) current.openText(0);
    find("h2", root).focus({ preventScroll: true });
  } catch (error) {
    root.replaceChildren(make("p", { class: "notes" }, `${id} cannot be shown (${error.message}); a browser from 2024 or later is needed.`));
  }
  scrollTo(0, 0);
}

function step(by) {
  const order = current && !shown.includes(current.head) ? data.heads : shown, at = current ? order.indexOf(current.head) + by : 0;
  if (order[at]) location.hash = order[at].id;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const act = {
    j: () => step(1), k: () => step(-1), ArrowRight: () => current && step(1), ArrowLeft: () => current && step(-1),
    "+": () => current?.choose(current.at + 1), "-": () => current?.choose(current.at - 1), Escape: () => (location.hash = "map-title"),
    "/": () => (document.body.classList.contains("one") && (location.hash = "table-title"), find("#filter").focus(), event.preventDefault()),
  }[event.key];
  act?.();
});
const printed = (now) => ((printing = now), drawRows());
addEventListener("beforeprint", () => printed(true));
addEventListener("afterprint", () => printed(false));
addEventListener("resize", () => (drawRows(), current?.maps && current.draw()));
addEventListener("hashchange", route);
scheme.addEventListener("change", () => (drawMap(), drawScores(), current?.maps && current.draw()));
drawMap();
drawScores();
arrange();
route();
