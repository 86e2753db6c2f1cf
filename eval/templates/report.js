"use strict";
// The behaviour of a report: colours, the map's views, the table, and the matrices of each head.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.heads.map((head) => [head.id, head]));
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function number(value, digits = 2, sign = false) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value < -10) return "< −10";
  const text = value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
  return ((sign && !text.startsWith("-") ? "+" : "") + text).replace("-", "−");
}

const on = (nodes, name, act) => nodes.forEach((node) => node.addEventListener(name, (event) => act(node, event)));

// Press one of several buttons.
function press(buttons, chosen) {
  for (const button of buttons) button.setAttribute("aria-pressed", button === chosen);
}

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

const tone = (category) => TONES[data.categories.indexOf(category)] ?? "8c8c8c";
for (const node of all("[data-category]")) node.style.setProperty("--tone", "#" + tone(node.dataset.category));

// The map of heads: views of the same cells. Output R² has no lower end, so its rows have medians.

const largest = (name) => Math.max(1e-9, ...data.heads.map((head) => Math.abs(head[name] ?? 0)));
const mean = (values) => values.reduce((a, b) => a + b) / values.length;
const middle = (values) => mean([...values].sort((a, b) => a - b).slice((values.length - 1) >> 1, (values.length >> 1) + 1));
const VIEWS = {
  iou: { ramp: "weight", text: (x) => number(x), low: 0, high: 1 },
  r2: { ramp: "weight", text: (x) => number(x), low: 0, high: 1, median: true },
  gain: { ramp: "change", text: (x) => number(x, 2, true), low: -largest("gain"), high: largest("gain") },
  nodes: { ramp: "weight", text: (x, mean) => number(x, mean ? 1 : 0), low: 0, high: largest("nodes") },
  jsd: { ramp: "weight", text: (x) => number(x), low: 0, high: largest("jsd") },
};
let view = "iou";

function drawMap() {
  const kinds = view === "category", { ramp: name, text, low, high, median } = VIEWS[view] ?? {};
  const stops = kinds ? null : ramp(name), legend = make("i");
  find("#map thead .mean").textContent = kinds ? "" : median ? "median" : "mean";
  for (const row of all("#map tbody tr")) {
    const values = [];
    for (const cell of all("a", row)) {
      const head = byId.get(cell.dataset.id), value = head[view];
      if (kinds) {
        cell.textContent = find("#map.narrow") ? value.slice(0, 2) : value;
        paint(cell, rgb(tone(value)));
      } else {
        cell.textContent = text(value);
        paint(cell, value === null ? null : colour(stops, (value - low) / (high - low)));
        if (value !== null) values.push(value);
      }
      cell.title = `${head.id}: ${head.category}, IoU ${number(head.iou, 3)}, ${head.r2 === null ? "" : `output R² ${number(head.r2, 3)}, `}${head.nodes} nodes`;
    }
    find(".mean", row).textContent = values.length ? text((median ? middle : mean)(values), true) : "";
  }
  if (!kinds) legend.style.background = gradient(stops);
  find("#map-legend").replaceChildren(...(kinds ? [] : [text(low), legend, text(high)]));
}

on(all("#views button"), "click", (button) => {
  view = button.dataset.view;
  press(all("#views button"), button);
  drawMap();
});

// Shared scores: a text coloured by each, and on the map the heads that use the chosen one.

const scores = new Map(data.scores.map((score) => [score.name, score]));

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

function markScore() {
  const score = scores.get(find("#score").value), roles = ["key", "query"];
  for (const cell of all("#map a")) {
    cell.dataset.roles = score ? roles.filter((role) => score[role].includes(cell.dataset.id)).map((role) => role[0]).join("") : "";
    cell.classList.toggle("unused", Boolean(score) && !cell.dataset.roles);
  }
  find("#score-heads").textContent = score ? roles.map((role) => `${role[0]}: at the ${role} of ${score[role].length} heads`).join(", ") : "";
}

const drawScores = () => all(".score[open]").forEach(drawScore);
on(all(".score"), "toggle", (root) => root.open && drawScore(root));
on(all("#score"), "change", markScore);
on(all(".on-map"), "click", (link) => {
  find("#score").value = link.closest(".score").dataset.score;
  markScore();
});

// The table of heads: sorting by a click on a column, and a filter by words.

function sortBy(header) {
  const column = header.cellIndex, now = header.getAttribute("aria-sort");
  const up = now ? now === "descending" : header.dataset.first === "up";
  for (const other of all("[aria-sort]", header.parentNode)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const x = Number(key(a)), y = Number(key(b));
    if (Number.isNaN(x) && Number.isNaN(y)) return (up ? 1 : -1) * key(a).localeCompare(key(b));
    return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : (up ? 1 : -1) * (x - y);
  };
  const body = find("#heads tbody");
  body.append(...[...body.rows].sort(compare));
}

function filterHeads() {
  const words = find("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = all("#heads tbody tr");
  for (const row of rows) {
    const id = row.dataset.id, program = find("pre.program", document.getElementById(id));
    const text = (row.textContent + program.textContent).toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    for (const link of all(`:is(#map, .scatter) [data-id="${id}"]`)) link.classList.toggle("off", row.hidden);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  find("#count").textContent = shown < rows.length ? `${shown} of ${rows.length}` : "";
}

on(all("#heads th button"), "click", (button) => sortBy(button.parentNode));
find("#filter").addEventListener("input", filterHeads);

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

// Undo report.py's encode: bytes of 255 √w, visible entries only. Entries not visible are 0.
function unpack(text, n) {
  const packed = atob(text), weights = new Float32Array(n * n);
  for (let q = 0, i = 0; q < n; q++) {
    for (let k = 0; k < (data.causal ? q + 1 : n); k++) weights[q * n + k] = (packed.charCodeAt(i++) / 255) ** 2;
  }
  return weights;
}

// The texts of one head: three matrices, what the pointer is at, and the text of a query.
class Panel {
  constructor(root) {
    this.head = data.heads[root.dataset.index];
    this.readout = make("div", { class: "readout" });
    this.strips = make("div");
    this.size = make("span", { class: "caption" });
    this.frames = ["head", "program", "difference"].map((name) => this.frame(name));
    this.tabs = this.head.examples.map((example, index) => {
      const tab = make("button", {}, `text ${index + 1} `, make("small", {}, number(example.iou)));
      tab.addEventListener("click", () => this.open(index));
      return tab;
    });
    root.append(
      make("div", { class: "bar" }, make("div", { class: "switch", role: "group", "aria-label": "Test text" }, ...this.tabs), this.size),
      make("div", { class: "matrices" }, ...this.frames.map((frame) => frame.figure)), this.readout, this.strips);
    this.open(0);
  }

  frame(name) {
    const canvas = make("canvas"), row = make("i"), column = make("i"), pin = make("i", { class: "pin" }), bar = make("i");
    const frame = make("div", { class: "frame", tabindex: "0", role: "img" }, canvas, row, column, pin);
    if (name === "head" && data.causal) frame.append(make("span", { class: "hint" }, "keys →", make("br"), "queries ↓"));
    const difference = name === "difference";
    const scale = make("div", { class: "scale" }, ...(difference ? ["head more", bar, "program more"] : ["0", bar, "1  (√ scale)"]));
    const figure = make("figure", {}, make("figcaption", {}, difference ? "program − head" : name), frame, scale);
    const cell = (event) => {
      const box = canvas.getBoundingClientRect(), at = (x, length) => clamp(Math.floor((x / length) * this.n), 0, this.n - 1);
      return [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
    };
    frame.addEventListener("pointermove", (event) => this.point(...cell(event)));
    frame.addEventListener("pointerleave", () => this.point(null, null));
    frame.addEventListener("click", (event) => this.pin(cell(event)[0]));
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1, Escape: 0 }[event.key];
      if (step === undefined) return;
      this.pin(step ? clamp((this.pinned ?? -1) + step, 0, this.n - 1) : null, true);
      event.preventDefault();
    });
    return { name, figure, canvas, row, column, pin, bar };
  }

  open(index) {
    const example = this.head.examples[index], text = data.texts[example.text];
    this.n = example.n;
    this.tokens = text.slice(0, this.n);
    this.weights = { head: unpack(example.head, this.n), program: unpack(example.program, this.n) };
    this.size.textContent = text.length > this.n ? `first ${this.n} of ${text.length} tokens` : `${this.n} tokens`;
    press(this.tabs, this.tabs[index]);
    this.pinned = null;
    this.makeStrips();
    this.draw();
    this.point(null, null);
  }

  makeStrips() {
    this.marks = {};
    this.strips.replaceChildren(...["head", "program"].map((name) => {
      const line = make("div");
      const marks = this.tokens.map((token) => make("span", { class: "tok" }, ...showToken(token)));
      on(marks, "click", (mark) => this.pin(marks.indexOf(mark)));
      on(marks, "pointerenter", (mark) => this.point(this.pinned, marks.indexOf(mark)));
      marks.forEach((mark, at) => line.append(mark, make(this.tokens[at].includes("\n") ? "br" : "wbr")));
      this.marks[name] = marks;
      line.addEventListener("pointerleave", () => this.point(null, null));
      return make("div", { class: "strip" }, make("span", {}, name), line);
    }));
  }

  draw() {
    const { head, program } = this.weights, n = this.n;
    const room = this.frames[0].figure.clientWidth || 360, ratio = devicePixelRatio || 1;
    const side = (n * Math.max(1, Math.floor((Math.min(room, 380) * ratio) / n))) / ratio;
    this.cell = side / n;
    for (const { name, canvas, bar } of this.frames) {
      const change = name === "difference", stops = ramp(change ? "change" : "weight"), image = new ImageData(n, n);
      for (let i = 0; i < n * n; i++) {
        if (data.causal && i % n > Math.floor(i / n)) continue;
        const gap = program[i] - head[i];
        const x = change ? 0.5 + 0.5 * Math.sign(gap) * Math.sqrt(Math.abs(gap)) : Math.sqrt(this.weights[name][i]);
        image.data.set([...colour(stops, x), 255], 4 * i);
      }
      canvas.width = canvas.height = n;
      canvas.style.width = canvas.style.height = `${side}px`;
      canvas.getContext("2d").putImageData(image, 0, 0);
      bar.style.background = gradient(stops);
    }
    this.showPin();
    this.colourStrips(this.pinned);
  }

  place(box, k, q, width, height) {
    const [x, y, w, h] = [k, q, width, height].map((cells) => `${cells * this.cell}px`);
    const shown = q === null || k === null ? "none" : "block";
    box.style.cssText = `display: ${shown}; transform: translate(${x}, ${y}); width: ${w}; height: ${h}`;
  }

  showPin() {
    for (const { pin } of this.frames) this.place(pin, 0, this.pinned, this.n, 1);
  }

  // Show one cell; without one, the pinned row; without that, how to use this.
  point(q, k) {
    for (const { row, column } of this.frames) {
      this.place(row, 0, q, this.n, 1);
      this.place(column, k, q === null ? null : 0, 1, this.n);
    }
    const query = q ?? this.pinned, { head, program } = this.weights, parts = [];
    this.colourStrips(query);
    if (query === null) {
      return this.readout.replaceChildren("Point at a cell for its weights; click on a row or a token to pin a query.");
    }
    const entry = (label, value) => parts.push(make("span", {}, label + " ", value));
    const figure = (label, ...value) => entry(label, make("b", {}, number(...value)));
    const token = (label, at) => entry(`${label} ${at}`, make("code", {}, ...showToken(this.tokens[at])));
    token("query", query);
    if (k !== null && data.causal && k > query) entry(`key ${k}`, "is not visible");
    else if (k !== null) {
      const at = query * this.n + k;
      token("key", k);
      figure("head", head[at], 3);
      figure("program", program[at], 3);
      figure("difference", program[at] - head[at], 3, true);
    }
    let low = 0, high = 0;
    for (let i = query * this.n; i < (query + 1) * this.n; i++) {
      low += Math.min(head[i], program[i]);
      high += Math.max(head[i], program[i]);
    }
    figure("IoU of the row", low / high);
    this.readout.replaceChildren(...parts);
  }

  colourStrips(query) {
    const stops = ramp("weight");
    for (const [name, marks] of Object.entries(this.marks)) {
      marks.forEach((mark, k) => {
        const unseen = query !== null && data.causal && k > query;
        mark.classList.toggle("query", k === query);
        mark.classList.toggle("unseen", unseen);
        paint(mark, query === null || unseen ? null : colour(stops, Math.sqrt(this.weights[name][query * this.n + k])));
      });
    }
  }

  pin(q, keep = false) {
    this.pinned = q === this.pinned && !keep ? null : q;
    this.showPin();
    this.point(null, null);
  }
}

// Panels are made when they come into view.

const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) target.panel ??= new Panel(target);
}, { rootMargin: "500px" });
const redrawPanels = () => all(".texts").forEach((root) => root.panel?.draw());

addEventListener("resize", redrawPanels);
scheme.addEventListener("change", () => { drawMap(); drawScores(); redrawPanels(); });
drawMap();
drawScores();
for (const root of all(".texts")) watcher.observe(root);
