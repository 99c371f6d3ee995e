// The two plots, drawn with bars of SVG. Colours come from the style, by class.

import { number } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 40;
const BOTTOM = 20;
const TOP = 8;
const BARS = 90;

function svg(tag, attributes = {}, classes = "") {
  const made = document.createElementNS(SVG, tag);
  if (classes) made.setAttribute("class", classes);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Seconds into bars, oldest first; the seconds before the sidecar told any hold nothing.
export function bars(pulse, words, span) {
  const step = Math.max(1, Math.round(span / BARS));
  const count = Math.floor(span / step);
  const made = Array.from({ length: count }, () => words.map(() => 0));
  const from = pulse.length - count * step;
  for (let n = 0; n < count * step; n += 1) {
    const counts = pulse[from + n];
    if (counts) counts.forEach((value, column) => { made[Math.floor(n / step)][column] += value; });
  }
  return { made, step };
}

// A round number at or above, for the top of the axis.
export function ceiling(value) {
  if (value <= 4) return 4;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((times) => times * unit).find((round) => round >= value);
}

export class Plot {
  // above, below: which columns are stacked on either side of the zero line
  constructor(box, above, below = []) {
    this.box = box;
    this.above = above;
    this.below = below;
    this.root = svg("svg", { "aria-hidden": "true" });
    this.grid = svg("g", {}, "grid");
    this.marks = svg("g", {}, "marks");
    this.cursor = svg("rect", { visibility: "hidden" }, "cursor");
    this.root.append(this.cursor, this.grid, this.marks);
    box.append(this.root);
    this.rects = new Map();
    this.last = null;
    new ResizeObserver(() => this.last && this.draw(...this.last)).observe(box);
  }

  draw(columns, step, words, endMs) {
    this.last = [columns, step, words, endMs];
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    if (!width || !height) return;
    this.root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const index = (names) => names.map((name) => words.indexOf(name));
    const above = index(this.above);
    const below = index(this.below);
    const tallest = (side) => Math.max(0, ...columns.map((counts) => side.reduce((sum, n) => sum + counts[n], 0)));
    const most = Math.max(tallest(above), tallest(below));
    const top = ceiling(most);
    const inner = height - TOP - BOTTOM;
    const zero = below.length ? TOP + inner / 2 : TOP + inner;
    const scale = (below.length ? inner / 2 : inner) / top;
    const each = (width - LEFT) / columns.length;
    this.frame = { each, count: columns.length, height };
    this.lines(width, zero, scale, top, below.length > 0);
    this.times(width, height, columns.length * step);
    const used = new Set();
    columns.forEach((counts, at) => {
      let up = zero;
      let down = zero;
      for (const n of above) if (counts[n]) { up -= counts[n] * scale; this.bar(used, at, words[n], each, up, counts[n] * scale); }
      for (const n of below) if (counts[n]) { this.bar(used, at, words[n], each, down, counts[n] * scale); down += counts[n] * scale; }
    });
    for (const [key, rect] of this.rects) if (!used.has(key)) { rect.remove(); this.rects.delete(key); }
  }

  bar(used, at, word, each, y, height) {
    const key = `${at} ${word}`;
    used.add(key);
    let rect = this.rects.get(key);
    if (!rect) {
      rect = svg("rect", {}, word);
      this.rects.set(key, rect);
      this.marks.append(rect);
    }
    const gap = Math.min(2, each * 0.25);
    const place = { x: LEFT + at * each + gap / 2, y, width: Math.max(1, each - gap), height: Math.max(0.75, height) };
    for (const [name, value] of Object.entries(place)) {
      const text = value.toFixed(2);
      if (rect.getAttribute(name) !== text) rect.setAttribute(name, text);
    }
  }

  lines(width, zero, scale, top, mirrored) {
    const values = mirrored ? [top, 0, -top] : [top, top / 2, 0];
    const parts = [];
    for (const value of values) {
      const y = zero - value * scale;
      parts.push(svg("line", { x1: LEFT, x2: width, y1: y, y2: y }, value === 0 ? "zero" : ""));
      const label = svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" });
      label.textContent = number(Math.abs(value));
      parts.push(label);
    }
    this.grid.replaceChildren(...parts);
  }

  times(width, height, seconds) {
    const marks = seconds > 600 ? [15, 10, 5].map((n) => [n * 60, `${n} min ago`])
      : seconds > 120 ? [5, 3, 1].map((n) => [n * 60, `${n} min ago`])
      : [60, 40, 20].map((n) => [n, `${n} s ago`]);
    for (const [ago, told] of [...marks, [0, "now"]]) {
      const x = LEFT + (width - LEFT) * (1 - Math.min(1, ago / seconds));
      const anchor = ago === 0 ? "end" : ago >= seconds ? "start" : "middle";
      const label = svg("text", { x, y: height - 4, "text-anchor": anchor });
      label.textContent = told;
      this.grid.append(label);
    }
  }

  // Marks a bar; which one a place on the screen belongs to.
  point(at) {
    if (at === null || !this.frame) {
      this.cursor.setAttribute("visibility", "hidden");
      return;
    }
    const place = { x: LEFT + at * this.frame.each, y: 0, width: this.frame.each, height: this.frame.height - BOTTOM };
    for (const [name, value] of Object.entries(place)) this.cursor.setAttribute(name, value);
    this.cursor.setAttribute("visibility", "visible");
  }

  barAt(clientX) {
    if (!this.frame) return null;
    const at = Math.floor((clientX - this.box.getBoundingClientRect().left - LEFT) / this.frame.each);
    return at >= 0 && at < this.frame.count ? at : null;
  }
}
