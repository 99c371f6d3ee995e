// A table that stays quick with thousands of rows: only the first ones are drawn, and only what changed is drawn again.

import { el, number, shown } from "./text.js";

const SHOWN = 25;
const MORE = 200;

export class Table {
  // columns: {head, cell(row), classes?, by?(row), first?: "most"}; order(a, b): how it stands unless a head is clicked;
  // words(row): what the filter looks at; empty: a sentence, or its parts; first: how many rows are shown unasked
  constructor(section, { columns, order, words, empty, first = SHOWN }) {
    this.section = section;
    this.columns = columns;
    this.order = order;
    this.words = words;
    this.empty = empty;
    this.first = this.limit = first;
    this.sorted = null;
    this.drawn = new Map();
    this.rows = new Map();
    this.count = section.querySelector(".count");
    this.filter = section.querySelector(".filter");
    this.filter?.addEventListener("input", () => { this.limit = this.first; this.draw(); });
    this.build();
  }

  build() {
    this.heads = this.columns.map((column) => this.head(column));
    this.body = el("tbody");
    this.table = el("table", "", {}, el("thead", "", {}, el("tr", "", {}, ...this.heads)), this.body);
    this.more = el("button", "more quiet", { type: "button" });
    this.more.addEventListener("click", () => { this.limit += MORE; this.draw(); });
    this.nothing = el("p", "nothing");
    this.section.append(this.table, this.nothing, this.more);
  }

  head(column) {
    if (!column.by) return el("th", column.classes, { scope: "col" }, column.label ? el("span", "unseen", {}, column.label) : column.head);
    const button = el("button", "sort", { type: "button" }, column.head);
    button.addEventListener("click", () => this.sortBy(column));
    return el("th", column.classes, { scope: "col" }, button);
  }

  sortBy(column) {
    const first = column.first === "most" ? -1 : 1;
    if (this.sorted?.column !== column) this.sorted = { column, sign: first };
    else if (this.sorted.sign === first) this.sorted = { column, sign: -first };
    else this.sorted = null;
    this.heads.forEach((head, n) => {
      if (this.sorted?.column !== this.columns[n]) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", this.sorted.sign > 0 ? "ascending" : "descending");
    });
    this.draw();
  }

  update(rows, total = rows.size) {
    this.rows = rows;
    this.total = total;
    this.draw();
  }

  draw() {
    const wanted = (this.filter?.value ?? "").trim().toLowerCase();
    const found = [];
    for (const [key, row] of this.rows) {
      if (!wanted || this.words(row).some((word) => shown(word).toLowerCase().includes(wanted))) found.push([key, row]);
    }
    found.sort((a, b) => this.compare(a[1], b[1]));
    const visible = found.slice(0, this.limit);
    this.count.textContent = this.counted(found.length, wanted);
    this.fill(visible);
    this.table.hidden = visible.length === 0;
    this.nothing.hidden = visible.length > 0;
    if (!visible.length) this.sayNothing(wanted);
    const hidden = found.length - visible.length;
    this.more.hidden = hidden === 0;
    this.more.textContent = `and ${number(hidden)} more`;
  }

  counted(found, wanted) {
    if (!this.total) return "";
    if (wanted) return `${number(found)} of ${number(this.total)}`;
    return this.total > this.rows.size ? `${number(this.rows.size)} of ${number(this.total)}` : number(this.total);
  }

  compare(a, b) {
    if (this.sorted) {
      const [left, right] = [this.sorted.column.by(a), this.sorted.column.by(b)];
      if (left !== right) return (left < right ? -1 : 1) * this.sorted.sign;
    }
    return this.order(a, b);
  }

  sayNothing(wanted) {
    const told = wanted ? ["Nothing matches the filter."] : [this.empty].flat();
    const key = told.map((part) => part.textContent ?? part).join("");
    if (this.nothing.textContent !== key) this.nothing.replaceChildren(...told.map((part) => part.cloneNode?.(true) ?? part));
  }

  // Rows keep their elements, so that focus and selection stay where they are.
  fill(visible) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const keep = new Set(visible.map(([key]) => key));
    for (const [key, one] of this.drawn) if (!keep.has(key)) { one.line.remove(); this.drawn.delete(key); }
    let next = this.body.firstElementChild;
    for (const [key, row] of visible) {
      const line = this.line(key, row);
      if (line === next) next = next.nextElementSibling;
      else this.body.insertBefore(line, next);
    }
    if (focused && document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true });
  }

  line(key, row) {
    let one = this.drawn.get(key);
    if (one?.row === row) return one.line;
    if (!one) {
      one = { line: el("tr"), row: null };
      this.drawn.set(key, one);
    }
    const hadFocus = one.line.contains(document.activeElement);
    one.row = row;
    one.line.replaceChildren(...this.columns.map((column) =>
      el("td", column.classes, { "data-head": column.head ?? "" }, ...[column.cell(row)].flat())));
    if (hadFocus) one.line.querySelector("button")?.focus({ preventScroll: true });
    return one.line;
  }
}
