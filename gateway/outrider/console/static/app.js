// The page: signing in, the line to the sidecar, and drawing what it tells.

import { Feed } from "./feed.js";
import { KillDialog } from "./kill.js";
import { Plot, bars } from "./plot.js";
import { el, localTime, number, renewAges, share, shown } from "./text.js";
import { agentsTable, callsTable, eventsTable, killsTable, sidecarsTable, upstreamsTable } from "./views.js";

const by = (id) => document.getElementById(id);
const WORDS = { ok: "ok", saved: "saved by retries", failed: "failed", unknown: "may have run", refused: "refused" };
const AWAY_MS = 60000;
const RENEW_MS = 500;

// ── signing in ──

function showDoor(note) {
  feed.close();
  by("board").hidden = true;
  by("kill").close();
  by("door").hidden = false;
  by("door-note").textContent = note;
  by("token").focus();
}

function showBoard() {
  by("door").hidden = true;
  by("door-fault").textContent = "";
  by("board").hidden = false;
  feed.open();
}

async function signIn(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  by("door-fault").textContent = "";
  try {
    const body = JSON.stringify({ token: by("token").value.trim(), name: by("who").value.trim() });
    const answer = await fetch("/v1/console/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.ok) {
      by("token").value = "";
      showBoard();
    } else {
      by("door-fault").textContent = shown((await answer.json()).detail);
      by("token").select();
    }
  } catch {
    by("door-fault").textContent = "No answer from the sidecar. Does it run?";
  } finally {
    button.disabled = false;
  }
}

async function signOut() {
  feed.close();
  await fetch("/v1/console/session", { method: "DELETE", headers: { "Outrider-Console": "1" } }).catch(() => null);
  showDoor("You are signed out.");
}

async function begin() {
  const answer = await fetch("/v1/console/session", { cache: "no-store" }).then((got) => got.json()).catch(() => ({}));
  if (answer.signed_in) showBoard();
  else showDoor("");
}

// ── what the line tells ──

let board = null;
let drawing = false;

const feed = new Feed({
  board(told) {
    board = told;
    setState("live");
    if (!drawing) {
      drawing = true;
      requestAnimationFrame(() => { drawing = false; draw(); });
    }
  },
  lost(why) {
    setState("lost", why);
  },
  signedOut() {
    showDoor("This session is over, or the sidecar was restarted. Please sign in again.");
  },
});

let lost = "";

function setState(state, why = "") {
  lost = state === "lost" ? why : "";
  by("board").classList.toggle("stale", state === "lost");
  const draining = board?.head.unready;
  const told = state === "lost" ? "Connection lost" : draining ? shown(draining) : "Live";
  if (by("state").textContent !== told) by("state").textContent = told;
  by("state").dataset.state = state === "lost" ? "lost" : draining ? "draining" : "live";
  drawAlarms();
}

function drawAlarms() {
  const head = board?.head;
  const told = [];
  if (lost) told.push(["bad", `Connection lost. ${lost} ${board ? `What you see is of ${localTime(board.now)}.` : ""} Trying again…`]);
  if (head) {
    if (head.trouble) told.push(["bad", head.trouble]);
    if (head.unready) told.push(["bad", `This sidecar takes no calls: ${head.unready}.`]);
    else if (!head.ledger.healthy) told.push(["bad", `The ledger cannot be written: ${head.ledger.trouble}`]);
    if (head.policy.rejected.length) told.push(["warn", `The changed policy is refused, the one before stays: ${head.policy.rejected[0]}`]);
    for (const other of board.tables.sidecars?.values() ?? []) {
      if (!other.answered) told.push(["bad", `The sidecar ${other.sidecar} does not answer: what runs there is not shown.`]);
    }
    const everything = [...board.tables.kills.values()].find((kill) => kill.scope === "global");
    if (everything) told.push(["bad", `Everything is stopped: ${everything.reason}`]);
  }
  const key = JSON.stringify(told);
  if (by("alarms").dataset.key === key) return;
  by("alarms").dataset.key = key;
  by("alarms").replaceChildren(...told.map(([tone, text]) => el("p", tone, { dir: "auto" }, shown(text))));
}

// ── drawing ──

const kill = new KillDialog(() => board, () => feed.on.signedOut());
const tables = {
  agents: agentsTable(by("agents"), kill),
  calls: callsTable(by("calls"), kill),
  upstreams: upstreamsTable(by("upstreams"), kill),
  kills: killsTable(by("kills")),
  sidecars: sidecarsTable(by("sidecars")),
  events: eventsTable(by("events")),
};
const callsPlot = new Plot(by("plot-calls"), ["ok", "saved", "refused", "unknown", "failed"]);
const savedPlot = new Plot(by("plot-saved"), ["saved"], ["failed", "unknown"]);
let span = 0;
let pointed = null;
let drawn = null;

// At first so far back as there is something to see.
function chooseSpan({ pulse }) {
  const first = pulse.findIndex((counts) => counts.some(Boolean));
  const age = first < 0 ? 0 : pulse.length - first;
  span = [60, 300].find((one) => age <= one) ?? 900;
  document.querySelector(`#span input[value="${span}"]`).checked = true;
}

function draw() {
  const { head } = board;
  if (!span) chooseSpan(board);
  by("about").replaceChildren("policy ", el("bdi", "", { title: head.policy.digest }, shown(head.policy.name)),
    head.policy.observes ? " (observes, refuses nothing)" : "", ` · ${head.version}`,
    ...(head.fleet ? [" · ", el("bdi", "", {}, shown(head.sidecar))] : []));
  drawPlots();
  by("sidecars").hidden = !head.fleet;
  for (const [name, table] of Object.entries(tables)) table.update(board.tables[name] ?? new Map(), head.counts[name]);
  setState("live");
  renewAges(Date.now() + board.ahead);
}

function drawPlots() {
  const { pulse, words } = board;
  const { made, step } = bars(pulse, words, span);
  const total = Object.fromEntries(words.map((word, n) => [word, made.reduce((sum, counts) => sum + counts[n], 0)]));
  const all = words.reduce((sum, word) => sum + total[word], 0);
  drawn = { made, step, words, total, all };
  callsPlot.draw(made, step, words);
  savedPlot.draw(made, step, words);
  drawFigures();
  drawVerdict();
  drawReadout();
}

function figure(value, label, tone = "") {
  return el("div", `figure ${tone}`, {}, el("strong", "", {}, value), el("span", "", {}, label));
}

function drawFigures() {
  const { total, all } = drawn;
  const recent = board.pulse.slice(-5).flat().reduce((sum, value) => sum + value, 0) / 5;
  const bad = total.failed + total.unknown;
  const kills = board.tables.kills.size;
  by("figures").replaceChildren(
    figure(recent < 10 ? recent.toFixed(1) : number(Math.round(recent)), "calls a second"),
    figure(number(board.head.counts.calls), "in flight"),
    figure(number(total.saved), "saved", total.saved ? "saved" : ""),
    figure(share(bad, all - total.refused), "failed", bad ? "failed" : ""),
    figure(number(total.refused), "refused"),
    figure(number(kills), kills === 1 ? "stop in force" : "stops in force", kills ? "failed" : ""),
  );
}

function drawVerdict() {
  const { total, all } = drawn;
  const tried = all - total.refused;
  const bad = total.failed + total.unknown;
  const told = !tried ? "No call was made in this time."
    : !total.saved && !bad ? "Nothing failed, so nothing had to be saved."
    : `Without them ${share(bad + total.saved, tried)} of the calls would have failed; ${share(bad, tried)} did.`;
  if (by("verdict").textContent !== told) by("verdict").textContent = told;
}

function drawReadout() {
  const { made, step, words, total, all } = drawn;
  callsPlot.point(pointed);
  const counts = pointed === null ? words.map((word) => total[word]) : made[pointed];
  const sum = pointed === null ? all : counts.reduce((a, b) => a + b, 0);
  const end = board.now - (made.length - 1 - (pointed ?? 0)) * step * 1000;
  const when = pointed === null ? "In all" : `${localTime(end - step * 1000)}, ${step} s`;
  const parts = words.map((word, n) => (counts[n] ? `${number(counts[n])} ${WORDS[word]}` : "")).filter(Boolean);
  by("readout").textContent = `${when}: ${number(sum)} calls${parts.length ? ` · ${parts.join(" · ")}` : ""}`;
  if (pointed === null) by("plot-calls").setAttribute("aria-label", `Calls by outcome over time. ${by("readout").textContent}`);
}

function point(at) {
  pointed = at;
  if (drawn) drawReadout();
}

function pointByKey(event) {
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") point(null);
  if (!way || !drawn) return;
  event.preventDefault();
  by("readout").setAttribute("aria-live", "polite");
  point(Math.min(drawn.made.length - 1, Math.max(0, (pointed ?? drawn.made.length) + way)));
}

// ── listening ──

by("legend").append(...Object.entries(WORDS).map(([word, text]) => el("span", `key ${word}`, {}, text)));
by("sign-in").addEventListener("submit", signIn);
by("sign-out").addEventListener("click", signOut);
by("open-kill").addEventListener("click", () => board && kill.open());
by("span").addEventListener("change", (event) => { span = Number(event.target.value); point(null); if (board) drawPlots(); });
by("plot-calls").addEventListener("pointermove", (event) => point(callsPlot.barAt(event.clientX)));
by("plot-calls").addEventListener("pointerleave", () => point(null));
by("plot-calls").addEventListener("keydown", pointByKey);
by("plot-calls").addEventListener("blur", () => { by("readout").setAttribute("aria-live", "off"); point(null); });
setInterval(() => board && renewAges(Date.now() + board.ahead), RENEW_MS);

// A page that nobody looks at costs the sidecar nothing.
let away = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(away);
  if (document.hidden) away = setTimeout(() => feed.close(), AWAY_MS);
  else if (!by("board").hidden) feed.open();
});

begin();
