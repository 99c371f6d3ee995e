// The tables of this page: which columns, in which order, and what an empty one says.

import { Table } from "./table.js";
import { age, el, moment, named, number, pill, shown } from "./text.js";

const code = (text) => el("code", "", {}, text);
const under = (...parts) => el("span", "under", {}, ...parts);
const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

function stop(kill, kind, name, what) {
  const button = el("button", "row-stop", { type: "button", "aria-label": `Stop ${what} ${shown(name)}…` }, "Stop…");
  button.addEventListener("click", () => kill.open(kind, name));
  return button;
}

const count = (head, key) => ({ head, classes: "number", by: (row) => row[key], first: "most", cell: (row) => dim(row[key]) });
const dim = (value) => el("span", value ? "" : "zero", {}, number(value));

// ── agents ──

const AGENT_TONE = { connected: "good", ready: "good", degraded: "warn", lost: "bad", killed: "bad", retired: "bad",
  cordoned: "warn", paused: "warn", draining: "warn", undeclared: "bad", quarantined: "warn", drifted: "warn" };

function agentState(row) {
  return el("span", "pills", {}, ...[row.state, ...row.words].map((word) =>
    pill(word === "killed" ? "stopped" : shown(word), AGENT_TONE[word] ?? "plain")));
}

// Which sidecar a row is of, where there are several.
const at = (row) => (row.sidecar ? `at ${shown(row.sidecar)}` : "");

function agentCell(row) {
  const parts = [row.framework, row.owner && `owned by ${row.owner}`].filter(Boolean).map((text) => shown(text)).concat(at(row) || []);
  return [named(row.name, "strong"), parts.length ? under(el("bdi", "", {}, parts.join(" · "))) : null].filter(Boolean);
}

export function agentsTable(section, kill) {
  return new Table(section, {
    columns: [
      { head: "Agent", classes: "main", by: (row) => row.name, cell: agentCell },
      { head: "State", cell: agentState },
      count("Running", "in_flight"),
      count("Calls", "calls"),
      count("Failed", "failures"),
      count("Refused", "refused"),
      { head: "Last seen", classes: "number", by: (row) => row.last_seen, first: "most", cell: (row) => age(row.last_seen, true) },
      { label: "Stop", classes: "act", cell: (row) => stop(kill, "agent", row.name, "agent") },
    ],
    order: (a, b) => a.rank - b.rank || byName(a, b),
    words: (row) => [row.name, row.state === "killed" ? "stopped" : row.state, ...row.words, row.framework, row.owner, row.sidecar],
    empty: ["No agent has called yet. Start one with ", code("outrider run python agent.py"), "."],
  });
}

// ── calls in flight ──

function callState(row) {
  if (row.stopping) return pill("stopping", "warn");
  return row.sent ? pill("sent", "good") : pill("waiting", "plain");
}

export function callsTable(section, kill) {
  return new Table(section, {
    columns: [
      { head: "Tool", classes: "main", cell: (row) => [named(row.tool, "strong"), under("by ", named(row.agent), row.sidecar && ` ${at(row)}`)] },
      { head: "State", cell: callState },
      { head: "Attempt", classes: "number", cell: (row) => dim(row.attempts) },
      { head: "For", classes: "number", cell: (row) => age(row.since) },
      { label: "Stop", classes: "act", cell: (row) => (row.run ? stop(kill, "run", row.run, "run") : stop(kill, "agent", row.agent, "agent")) },
    ],
    order: (a, b) => (a.since < b.since ? -1 : a.since > b.since ? 1 : 0),
    words: (row) => [row.tool, row.agent, row.run],
    first: 10,
    empty: "No call is under way.",
  });
}

// ── upstreams ──

const BREAKER = { closed: ["closed", "good"], open: ["open", "bad"], half_open: ["trying", "warn"],
  forced_open: ["forced open", "bad"], disabled: ["off", "plain"] };

function health(row) {
  if (row.kind !== "http" || !row.probed) return el("span", "zero", {}, "not probed");
  const told = pill(row.ready ? "ready" : "not ready", row.ready ? "good" : "bad");
  told.title = shown(row.last);
  return row.ready ? told : [told, under(el("bdi", "", {}, shown(row.last)))];
}

function breaker(row) {
  const some = Object.entries(row.breakers).filter(([state]) => state !== "closed");
  if (row.kind === "local" && some.length) {
    const told = some.map(([state, n]) => `${number(n)} ${BREAKER[state]?.[0] ?? state}`).join(", ");
    return pill(told, "warn");
  }
  const [word, tone] = BREAKER[row.breaker] ?? [row.breaker, "plain"];
  const made = pill(word, tone);
  made.title = `opened ${number(row.opened)} times`;
  return made;
}

const urgency = (row) => (row.breaker === "open" || row.breaker === "forced_open" ? 0 : !row.ready ? 1 : row.breaker === "half_open" ? 2 : 3);

export function upstreamsTable(section, kill) {
  return new Table(section, {
    columns: [
      { head: "Upstream", classes: "main", cell: (row) => [named(row.name, "strong"), row.sidecar ? under(el("bdi", "", {}, at(row))) : ""] },
      { head: "Breaker", cell: breaker },
      { head: "Health", cell: health },
      { head: "Running", classes: "number", cell: (row) => (row.waiting ? [dim(row.held), under(`${number(row.waiting)} wait`)] : dim(row.held)) },
      { label: "Stop", classes: "act", cell: (row) => (row.kind === "domain" ? "" : stop(kill, "upstream", row.name, "upstream")) },
    ],
    order: (a, b) => urgency(a) - urgency(b) || byName(a, b),
    words: (row) => [row.name],
    empty: "The policy names no upstream.",
  });
}

// ── other sidecars ──

function sidecarState(row) {
  if (!row.answered) return pill("no answer", "bad");
  return row.unready ? pill(shown(row.unready), "warn") : pill("answers", "good");
}

export function sidecarsTable(section) {
  return new Table(section, {
    columns: [
      { head: "Sidecar", classes: "main", cell: (row) => [named(row.sidecar, "strong"), row.error ? under(el("bdi", "", { title: shown(row.error) }, shown(row.error))) : ""] },
      { head: "State", cell: sidecarState },
      { head: "Version", classes: "number", cell: (row) => shown(row.version) },
    ],
    order: (a, b) => a.answered - b.answered || (a.sidecar < b.sidecar ? -1 : 1),
    words: (row) => [row.sidecar, row.peer],
    empty: "No other sidecar is known.",
  });
}

// ── kills ──

export function killsTable(section) {
  return new Table(section, {
    columns: [
      { head: "Stopped", classes: "main", cell: (row) => [named(row.scope, "strong"), under(el("bdi", "", {}, shown(row.reason)))] },
      { head: "By", cell: (row) => [named(row.by), under(row.durable ? "" : "not on disk yet ", row.expires_at ? "until " : "since ", moment(row.expires_at || row.engaged_at))] },
    ],
    order: (a, b) => (a.engaged_at > b.engaged_at ? -1 : 1),
    words: (row) => [row.scope, row.reason, row.by],
    empty: "Nothing is stopped.",
  });
}

// ── events ──

const TOLD = {
  "call.finished": "call ended", "call.refused": "call refused", "call.settled": "call settled", "attempt.settled": "attempt settled",
  "kill.engaged": "stopped", "kill.lifted": "lifted", "policy.loaded": "policy loaded", "policy.rejected": "policy rejected",
  "agent.connected": "agent came", "agent.lost": "agent went", "payload.erased": "payload erased",
  "sidecar.started": "sidecar started", "sidecar.stopped": "sidecar stopped",
};
const EVENT_TONE = { "call.refused": "warn", "kill.engaged": "bad", "policy.rejected": "bad", "agent.lost": "warn" };
const OUTCOME_TONE = { ok: "good", definite: "bad", unknown: "warn", not_executed: "warn" };

function what(row) {
  if (row.type === "call.finished") {
    const word = row.outcome === "ok" ? (row.attempts > 1 ? `ok, attempt ${row.attempts}` : "ok") : row.code || row.outcome;
    return pill(shown(word), OUTCOME_TONE[row.outcome] ?? "plain");
  }
  const made = pill(row.code ? shown(row.code) : TOLD[row.type] ?? shown(row.type), EVENT_TONE[row.type] ?? "plain");
  made.title = shown(row.type);
  return made;
}

function subject(row) {
  const parts = [row.tool && named(row.tool, "strong"), row.tool && row.agent && " by ", row.agent && named(row.agent)].filter(Boolean);
  if (!parts.length) parts.push(el("span", "", {}, TOLD[row.type] ?? shown(row.type)));
  if (row.sidecar) parts.push(el("bdi", "zero", {}, ` ${at(row)}`));
  return parts;
}

export function eventsTable(section) {
  return new Table(section, {
    columns: [
      { head: "When", classes: "when", cell: (row) => moment(row.at) },
      { head: "What", cell: what },
      { head: "Who", classes: "main", cell: subject },
      { head: "Told", classes: "told", cell: (row) => [row.actor ? [named(row.actor), row.told ? ": " : ""] : [], named(row.told)].flat() },
    ],
    order: (a, b) => (a.at > b.at ? -1 : a.at < b.at ? 1 : b.seq - a.seq),
    words: (row) => [row.type, row.tool, row.agent, row.told, row.code, row.outcome, row.actor, row.call_id, row.run_id],
    first: 12,
    empty: "The ledger is empty.",
  });
}
