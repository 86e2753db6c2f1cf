"use strict";
// The behaviour of a report: colours, the map's views, the table, and the matrices of each head.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.heads.map((head) => [head.id, head]));
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function number(value, digits = 2, sign = false) {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
  return ((sign && !text.startsWith("-") ? "+" : "") + text).replace("-", "−");
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
let printing = false;
const ramps = () => RAMPS[scheme.matches && !printing ? "dark" : "light"];
const tables = new Map();

// The 256 colours of a ramp, as [r, g, b].
function table(ramp) {
  if (!tables.has(ramp)) {
    const stops = ramp.split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    tables.set(ramp, Array.from({ length: 256 }, (_, i) => {
      const at = (i / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
      return stops[low].map((from, c) => Math.round(from + (stops[low + 1][c] - from) * (at - low)));
    }));
  }
  return tables.get(ramp);
}
const clamp = (x) => Math.max(0, Math.min(1, x));
const colour = (ramp, x) => table(ramp)[Math.round(255 * clamp(x))];
const gradient = (ramp) => `linear-gradient(90deg, ${ramp.split(" ").map((hex) => "#" + hex).join(", ")})`;

function paint(node, rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255) ** 2.2);
  node.style.background = `rgb(${rgb})`;
  node.style.color = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2 ? "#10141c" : "#fff";
}

function unpaint(node) {
  node.style.background = node.style.color = "";
}

function tone(category) {
  const index = data.categories.indexOf(category);
  return index >= 0 && index < TONES.length ? TONES[index] : "8c8c8c";
}
for (const node of all("[data-category]")) node.style.setProperty("--tone", "#" + tone(node.dataset.category));

// The map of heads: five views of the same cells.

const largest = (name) => Math.max(1e-9, ...data.heads.map((head) => Math.abs(head[name] ?? 0)));
const VIEWS = {
  iou: { ramp: "weight", text: (x) => number(x), low: 0, high: 1 },
  gain: { ramp: "change", text: (x) => number(x, 2, true), low: -largest("gain"), high: largest("gain") },
  nodes: { ramp: "weight", text: (x, mean) => number(x, mean ? 1 : 0), low: 0, high: largest("nodes") },
  jsd: { ramp: "weight", text: (x) => number(x), low: 0, high: largest("jsd") },
  category: {},
};
let view = "iou";

function drawMap() {
  if (!find("#map")) return;
  const { ramp, text, low, high } = VIEWS[view];
  find("#map").classList.toggle("kinds", view === "category");
  find("#map thead .mean").textContent = view === "category" ? "" : "mean";
  const stops = ramps()[ramp];
  for (const row of all("#map tbody tr")) {
    const values = [];
    for (const cell of all("a", row)) {
      const head = byId.get(cell.dataset.id), value = head[view];
      if (view === "category") {
        cell.textContent = find("#map.narrow") ? value.slice(0, 2) : value;
        paint(cell, [0, 2, 4].map((i) => parseInt(tone(value).slice(i, i + 2), 16)));
      } else {
        cell.textContent = text(value);
        if (value === null) unpaint(cell);
        else paint(cell, colour(stops, (value - low) / (high - low)));
        if (value !== null) values.push(value);
      }
      cell.title = `${head.id}: ${head.category}, IoU ${number(head.iou, 3)}, ${head.nodes} nodes`;
    }
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    find(".mean", row).textContent = values.length ? text(mean, true) : "";
  }
  const legend = find("#map-legend");
  if (view === "category") return legend.replaceChildren();
  const bar = make("i");
  bar.style.background = gradient(stops);
  legend.replaceChildren(text(low), bar, text(high));
}

for (const button of all("#views button")) {
  button.addEventListener("click", () => {
    view = button.dataset.view;
    for (const other of all("#views button")) other.setAttribute("aria-pressed", other === button);
    drawMap();
  });
}

// The table of heads: sorting by a click on a column, and a filter by words.

function sortBy(header) {
  const column = [...header.parentNode.children].indexOf(header);
  const now = header.getAttribute("aria-sort"), first = header.dataset.first === "up";
  const up = now ? now === "descending" : first;
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

let category = null; // the one that the filter keeps; null for all

function filterHeads() {
  const words = find("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of all("#heads tbody tr")) {
    const id = row.dataset.id;
    const text = (row.textContent + find("pre.program", document.getElementById(id)).textContent).toLowerCase();
    const kept = category === null || byId.get(id).category === category;
    row.hidden = !(kept && words.every((word) => text.includes(word)));
    shown += !row.hidden;
    for (const link of all(`#map [data-id="${id}"], .scatter [data-id="${id}"]`)) link.classList.toggle("off", row.hidden);
  }
  find("#count").textContent = shown < data.heads.length ? `${shown} of ${data.heads.length}` : "";
}

if (find("#heads")) {
  for (const button of all("#heads th button")) button.addEventListener("click", () => sortBy(button.parentNode));
  find("#filter").addEventListener("input", filterHeads);
  for (const button of all("[data-filter]")) {
    button.addEventListener("click", () => {
      category = category === button.dataset.filter ? null : button.dataset.filter;
      for (const other of all("[data-filter]")) other.setAttribute("aria-pressed", other.dataset.filter === category);
      filterHeads();
    });
  }
}

// Tokens as text: white space and other invisible characters made visible.

const VISIBLE = { " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "": "∅" };

function showToken(token) {
  const pieces = token === "" ? [""] : token.split(/([\s\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])/).filter(Boolean);
  return pieces.map((piece) => {
    if (piece in VISIBLE) return make("s", {}, VISIBLE[piece]);
    const code = piece.charCodeAt(0);
    const odd = piece.length === 1 && /[\s\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/.test(piece);
    return odd ? make("s", {}, "\\u" + code.toString(16).padStart(4, "0")) : piece;
  });
}

// Undo report.py's pack: bytes of 255 √w, visible entries only. Entries not visible are 0.
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
    this.root = root;
    this.head = data.heads[root.dataset.index];
    this.pinned = null;
    this.readout = make("div", { class: "readout" });
    this.strips = make("div");
    this.frames = ["head", "program", "difference"].map((name) => this.frame(name));
    this.tabs = this.head.examples.map((example, index) => {
      const tab = make("button", {}, `text ${index + 1} `, make("small", {}, number(example.iou)));
      tab.addEventListener("click", () => { this.open(index); this.remember(); });
      return tab;
    });
    this.size = make("span", { class: "caption" });
    root.append(
      make("div", { class: "bar" }, make("div", { class: "switch", role: "group", "aria-label": "Test text" }, ...this.tabs), this.size),
      make("div", { class: "matrices" }, ...this.frames.map((frame) => frame.figure)), this.readout, this.strips);
    this.open(0);
  }

  frame(name) {
    const canvas = make("canvas"), row = make("i"), column = make("i"), pin = make("i", { class: "pin" });
    const frame = make("div", { class: "frame", tabindex: "0", role: "img" }, canvas, row, column, pin);
    if (name === "head" && data.causal) frame.append(make("span", { class: "hint" }, "keys →", make("br"), "queries ↓"));
    const bar = make("i"), difference = name === "difference";
    const scale = make("div", { class: "scale" }, ...(difference ? ["head more", bar, "program more"] : ["0", bar, "1  (√ scale)"]));
    const figure = make("figure", {}, make("figcaption", {}, difference ? "program − head" : name), frame, scale);
    const cell = (event) => {
      const box = canvas.getBoundingClientRect(), at = (x, length) => Math.max(0, Math.min(this.n - 1, Math.floor((x / length) * this.n)));
      return [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
    };
    frame.addEventListener("pointermove", (event) => this.point(...cell(event)));
    frame.addEventListener("pointerleave", () => this.point(null, null));
    frame.addEventListener("click", (event) => this.pin(cell(event)[0]));
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (step) this.pin(Math.max(0, Math.min(this.n - 1, (this.pinned ?? -1) + step)), true);
      else if (event.key === "Escape") this.pin(null);
      else return;
      event.preventDefault();
    });
    return { name, figure, frame, canvas, row, column, pin, bar };
  }

  open(index, pinned = null) {
    const example = this.head.examples[index];
    this.index = index;
    this.n = example.n;
    this.tokens = data.texts[example.text].slice(0, this.n);
    this.weights = { head: unpack(example.head, this.n), program: unpack(example.program, this.n) };
    const whole = data.texts[example.text].length;
    this.size.textContent = whole > this.n ? `first ${this.n} of ${whole} tokens` : `${this.n} tokens`;
    this.tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", i === index));
    this.pinned = pinned === null ? null : Math.min(pinned, this.n - 1);
    this.makeStrips();
    this.draw();
    this.point(null, null);
  }

  makeStrips() {
    this.marks = {};
    this.strips.replaceChildren(...["head", "program"].map((name) => {
      this.marks[name] = this.tokens.map((token, at) => {
        const mark = make("span", { class: "tok" }, ...showToken(token));
        mark.addEventListener("click", () => this.pin(at));
        mark.addEventListener("pointerenter", () => this.point(this.pinned, at));
        return mark;
      });
      const line = make("div");
      this.marks[name].forEach((mark, at) => line.append(mark, this.tokens[at].includes("\n") ? make("br") : make("wbr")));
      line.addEventListener("pointerleave", () => this.point(null, null));
      return make("div", { class: "strip" }, make("span", {}, name), line);
    }));
  }

  draw() {
    this.root.classList.toggle("pinned", this.pinned !== null);
    const { head, program } = this.weights, n = this.n, colours = ramps();
    const room = this.frames[0].figure.clientWidth || 360, ratio = devicePixelRatio || 1;
    const side = (n * Math.max(1, Math.floor((Math.min(room, 380) * ratio) / n))) / ratio;
    this.cell = side / n;
    for (const { name, canvas, bar, pin } of this.frames) {
      const change = name === "difference", stops = change ? colours.change : colours.weight;
      const image = new ImageData(n, n);
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
      this.place(pin, 0, this.pinned, n, 1);
    }
    this.colourStrips(this.pinned);
  }

  place(box, k, q, width, height) {
    box.style.display = q === null || k === null ? "none" : "block";
    box.style.transform = `translate(${k * this.cell}px, ${q * this.cell}px)`;
    box.style.width = `${width * this.cell}px`;
    box.style.height = `${height * this.cell}px`;
  }

  // Show one cell; without one, the pinned row; without that, how to use this.
  point(q, k) {
    for (const { row, column } of this.frames) {
      this.place(row, 0, q, this.n, 1);
      this.place(column, k, q === null ? null : 0, 1, this.n);
    }
    const query = q ?? this.pinned;
    this.colourStrips(query);
    if (query === null) {
      return this.readout.replaceChildren("Point at a cell for its weights; click on a row or a token to pin a query.");
    }
    const at = query * this.n + (k ?? 0), parts = [];
    const entry = (label, value) => parts.push(make("span", {}, label + " ", value));
    const token = (index) => make("code", {}, ...showToken(this.tokens[index]));
    entry(`query ${query}`, token(query));
    if (k !== null && data.causal && k > query) entry(`key ${k}`, "is not visible");
    else if (k !== null) {
      entry(`key ${k}`, token(k));
      for (const name of ["head", "program"]) entry(name, make("b", {}, number(this.weights[name][at], 3)));
      entry("difference", make("b", {}, number(this.weights.program[at] - this.weights.head[at], 3, true)));
    }
    let low = 0, high = 0;
    for (let i = query * this.n; i < (query + 1) * this.n; i++) {
      low += Math.min(this.weights.head[i], this.weights.program[i]);
      high += Math.max(this.weights.head[i], this.weights.program[i]);
    }
    entry("IoU of the row", make("b", {}, number(low / high)));
    this.readout.replaceChildren(...parts);
  }

  colourStrips(query) {
    for (const name of ["head", "program"]) {
      this.marks[name].forEach((mark, k) => {
        const unseen = query !== null && data.causal && k > query;
        mark.classList.toggle("query", k === query);
        mark.classList.toggle("unseen", unseen);
        if (query === null || unseen) unpaint(mark);
        else paint(mark, colour(ramps().weight, Math.sqrt(this.weights[name][query * this.n + k])));
      });
    }
  }

  pin(q, keep = false) {
    this.pinned = q === this.pinned && !keep ? null : q;
    this.root.classList.toggle("pinned", this.pinned !== null);
    for (const { pin } of this.frames) this.place(pin, 0, this.pinned, this.n, 1);
    this.point(null, null);
    this.remember();
  }

  remember() {
    const place = `#${this.head.id}.t${this.index + 1}` + (this.pinned === null ? "" : `.q${this.pinned}`);
    try { history.replaceState(null, "", place); } catch { /* some viewers forbid it */ }
  }
}

// Panels are made when they come into view; an address like #L5H1.t2.q17 opens a text and row.

const panels = new Map();

function panel(root) {
  if (!panels.has(root)) panels.set(root, new Panel(root));
  return panels.get(root);
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { panel(entry.target); watcher.unobserve(entry.target); }
  }
}, { rootMargin: "500px" });

function follow() {
  const found = /^#(L\d+H\d+)(?:\.t(\d+))?(?:\.q(\d+))?$/.exec(location.hash);
  for (const section of all(".here")) section.classList.remove("here");
  const section = found && document.getElementById(found[1]);
  if (!section) return;
  section.classList.add("here");
  section.scrollIntoView();
  const root = find(".texts", section);
  if (root && (found[2] || found[3])) {
    const shown = panel(root), last = shown.head.examples.length - 1;
    shown.open(Math.max(0, Math.min(last, Number(found[2] ?? 1) - 1)), found[3] ? Number(found[3]) : null);
  }
}

function redraw() {
  drawMap();
  for (const shown of panels.values()) shown.draw();
}

addEventListener("hashchange", follow);
addEventListener("resize", () => { for (const shown of panels.values()) shown.draw(); });
addEventListener("beforeprint", () => { printing = true; all(".texts").forEach(panel); redraw(); });
addEventListener("afterprint", () => { printing = false; redraw(); });
scheme.addEventListener("change", redraw);
addEventListener("keydown", (event) => {
  if (event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { j: 1, k: -1 }[event.key];
  if (!step) return;
  const sections = all(".head"), now = sections.findIndex((section) => section.classList.contains("here"));
  const next = sections[now < 0 ? 0 : now + step];
  if (next) location.hash = next.id;
});

drawMap();
for (const root of all(".texts")) watcher.observe(root);
follow();
