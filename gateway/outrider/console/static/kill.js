// The one thing this page can do: stop. The first click arms, the second within some seconds stops, and one click is one
// request: it is never sent again by itself, because nobody here knows whether the first one arrived.

import { el, named, number, shown } from "./text.js";

const ARMED_MS = 8000;
const DOUBLE_CLICK_MS = 600;
const LISTED = 50;
const KINDS = { agent: "agent", run: "run", tool: "tool", upstream: "upstream", global: "everything" };

export class KillDialog {
  // board(): what the page shows now; signedOut()
  constructor(board, signedOut) {
    this.board = board;
    this.signedOut = signedOut;
    const by = (id) => document.getElementById(id);
    [this.dialog, this.form, this.kind, this.name, this.reason] = ["kill", "kill-form", "kill-kind", "kill-name", "kill-reason"].map(by);
    [this.fault, this.go, this.armedNote, this.covers] = ["kill-fault", "kill-go", "kill-armed", "kill-covers"].map(by);
    [this.nameBox, this.names, this.receipt] = ["kill-name-box", "kill-names", "receipt"].map(by);
    this.armedAt = 0;
    this.ticking = 0;
    this.busy = false;
    this.listen();
  }

  listen() {
    for (const field of [this.kind, this.name, this.reason]) field.addEventListener("input", () => this.changed());
    this.kind.addEventListener("change", () => { this.name.value = ""; this.changed(); });
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.clicked(); });
    this.form.addEventListener("keydown", (event) => { if (event.repeat && event.key === "Enter") event.preventDefault(); });
    document.getElementById("kill-cancel").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("cancel", (event) => { if (this.busy) event.preventDefault(); });
    this.dialog.addEventListener("close", () => this.disarm());
  }

  open(kind = "agent", name = "") {
    this.form.hidden = false;
    this.receipt.hidden = true;
    this.kind.value = kind;
    this.name.value = name;
    this.reason.value = "";
    this.changed();
    this.dialog.showModal();
    (name || kind === "global" ? this.reason : this.name).focus();
  }

  scope() {
    return this.kind.value === "global" ? "global" : `${this.kind.value}:${this.name.value.trim()}`;
  }

  changed() {
    this.disarm();
    this.fault.textContent = "";
    this.nameBox.hidden = this.kind.value === "global";
    const known = new Set(this.known());
    this.names.replaceChildren(...[...known].slice(0, 200).map((name) => el("option", "", { value: name })));
    this.covers.textContent = this.coverage();
  }

  known() {
    const { agents, calls, upstreams } = this.board().tables;
    const by = { agent: () => [...agents.values()].map((row) => row.name), run: () => [...calls.values()].map((row) => row.run),
      tool: () => [...calls.values()].map((row) => row.tool), global: () => [],
      upstream: () => [...upstreams.values()].filter((row) => row.kind !== "domain").map((row) => row.name) };
    return by[this.kind.value]().filter(Boolean);
  }

  // What the scope would stop now, of what this page shows.
  coverage() {
    const name = this.name.value.trim();
    const kind = this.kind.value;
    if (kind !== "global" && !name) return "A star at the end of an agent’s or a tool’s name means: all that begin so.";
    const prefix = (kind === "agent" || kind === "tool") && name.endsWith("*");
    const covers = (word) => (prefix ? word.startsWith(name.slice(0, -1)) : word === name);
    const home = (row) => ({ agent: row.agent, run: row.run, tool: row.tool, upstream: row.tool.split(".")[0] })[kind];
    const running = [...this.board().tables.calls.values()].filter((row) => kind === "global" || covers(home(row)));
    const agents = [...this.board().tables.agents.values()].filter((row) => kind === "agent" && covers(row.name));
    const whom = kind === "global" ? "Every call of every agent" : prefix ? `Every ${kind} whose name begins so` : `This ${kind} only`;
    const many = prefix && kind === "agent" ? ` (${number(agents.length)} of those known)` : "";
    return `${whom}${many}. Calls in flight now: ${number(running.length)}. It stays stopped until a person lifts it.`;
  }

  // ── two clicks ──

  clicked() {
    if (this.busy) return;
    const missing = this.missing();
    if (missing) {
      this.fault.textContent = missing[1];
      missing[0].focus();
      return;
    }
    if (!this.armedAt) this.arm();
    else if (performance.now() - this.armedAt >= DOUBLE_CLICK_MS) this.send();
  }

  missing() {
    if (this.kind.value !== "global" && !this.name.value.trim()) return [this.name, "Say which one."];
    if (!this.reason.value.trim()) return [this.reason, "Say why, for those who read it later."];
    return null;
  }

  arm() {
    this.fault.textContent = "";
    this.armedAt = performance.now();
    this.go.classList.add("armed");
    const what = this.kind.value === "global" ? "everything" : shown(this.name.value.trim());
    this.go.replaceChildren("Really stop ", named(what), "?");
    this.ticking = setInterval(() => this.countdown(), 250);
    this.countdown();
  }

  countdown() {
    const left = ARMED_MS - (performance.now() - this.armedAt);
    if (left <= 0) this.disarm();
    else this.armedNote.textContent = `Click again within ${Math.ceil(left / 1000)} s.`;
  }

  disarm() {
    clearInterval(this.ticking);
    this.armedAt = 0;
    this.go.classList.remove("armed");
    this.go.textContent = "Stop";
    this.armedNote.textContent = "";
  }

  async send() {
    const scope = this.scope();
    this.disarm();
    this.busy = this.go.disabled = true;
    this.go.textContent = "Stopping…";
    try {
      const answer = await fetch("/v1/kills", {
        method: "POST",
        headers: { "Content-Type": "application/json", "Outrider-Console": "1" },
        body: JSON.stringify({ scope, reason: this.reason.value.trim() }),
      });
      const told = await answer.json();
      if (answer.status === 401) this.signedOut();
      else if (answer.ok) this.show(told);
      else this.fault.textContent = shown(told.detail);
    } catch {
      this.fault.textContent = "No answer came. It may be stopped all the same: look under “Stopped” before you try again.";
    } finally {
      this.busy = this.go.disabled = false;
      this.go.textContent = "Stop";
    }
  }

  // ── the receipt ──

  show(receipt) {
    const { not_executed: never, completed, unknown } = receipt.counts;
    const [kind] = receipt.scope.split(":");
    const what = kind === "global" ? "everything" : receipt.scope.slice(kind.length + 1);
    const close = el("button", "main", { type: "button" }, "Close");
    close.addEventListener("click", () => this.dialog.close());
    const parts = [
      el("h2", "", { tabindex: "-1" }, "Stopped: ", kind === "global" ? "" : `${KINDS[kind] ?? kind} `, named(what)),
      el("p", "help", {}, `In ${number(Math.round(receipt.took_ms))} ms. Calls that were under way: ${number(never + completed + unknown)}.`),
      el("dl", "counts", {}, ...tally("never ran", never, "calm"), ...tally("completed", completed, "calm"), ...tally("may have run", unknown, unknown ? "warn" : "calm")),
      ...warnings(receipt),
      calls(receipt.peers?.length ? receipt.calls : receipt.calls.map((call) => ({ ...call, sidecar: "" }))),
      el("p", "help", {}, "To lift it: ", el("code", "", {}, `outrider revive ${receipt.id} --reason "…"`)),
      el("div", "actions", {}, close),
    ];
    this.receipt.replaceChildren(...parts.filter(Boolean));
    this.form.hidden = true;
    this.receipt.hidden = false;
    parts[0].focus();
  }
}

function tally(word, count, tone) {
  return [el("div", tone, {}, el("dd", "", {}, number(count)), el("dt", "", {}, word))];
}

function warnings(receipt) {
  const told = [];
  if (receipt.counts.unknown) told.push("What may have run is not known to have stopped: look it up before it is tried again.");
  for (const peer of receipt.peers ?? []) {
    if (!peer.answered) told.push(`The sidecar ${shown(peer.sidecar ?? peer.peer)} did not answer (${shown(peer.error)}): what runs there may go on. It is told as soon as it answers.`);
  }
  if (!receipt.durable) told.push("This stop is in force, and not yet on disk: a restart before it is written forgets it.");
  return told.map((sentence) => el("p", "warning", { role: "alert" }, sentence));
}

const receiptAt = (call) => (call.sidecar ? el("span", "by", { title: shown(call.sidecar) }, " at ", el("bdi", "", {}, shown(call.sidecar))) : null);

function calls(listed) {
  if (!listed.length) return null;
  const words = { not_executed: "never ran", completed: "completed", unknown: "may have run" };
  const lines = listed.slice(0, LISTED).map((call) =>
    el("li", "", {}, named(call.tool), el("span", "by", {}, " by "), named(call.agent), receiptAt(call), el("span", `word ${call.result}`, {}, words[call.result] ?? call.result)));
  const rest = listed.length - lines.length;
  return el("ul", "receipt-calls", {}, ...lines, rest > 0 ? el("li", "help", {}, `and ${number(rest)} more; the ledger has them all`) : null);
}
