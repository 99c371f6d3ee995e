// What the sidecar tells, as one board: the whole first, then what changed. Read by fetch and not by EventSource, which
// does not say why it was refused. Silence is not taken for calm: without a word for a while the line counts as lost.

const SILENCE_MS = 8000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const KEPT_SECONDS = 900;

export class Feed {
  // on.board(board), on.lost(sentence), on.signedOut()
  constructor(on) {
    this.on = on;
    this.board = null;
    this.wanted = false;
    this.turn = 0; // of the loop that runs; one that was closed while it waited ends when it wakes up
    this.line = null;
    this.waitMs = FIRST_WAIT_MS;
  }

  open() {
    if (this.wanted) return;
    this.wanted = true;
    this.waitMs = FIRST_WAIT_MS;
    this.run(++this.turn);
  }

  close() {
    this.wanted = false;
    this.line?.abort();
  }

  async run(turn) {
    while (this.wanted && this.turn === turn) {
      const line = (this.line = new AbortController());
      const why = await this.listen(line).catch(() => "No answer from the sidecar.");
      line.abort();
      if (!this.wanted || this.turn !== turn) return;
      if (why === null) {
        this.wanted = false;
        this.on.signedOut();
        return;
      }
      this.on.lost(why);
      await new Promise((done) => setTimeout(done, this.waitMs * (0.75 + Math.random() / 2)));
      this.waitMs = Math.min(LONGEST_WAIT_MS, this.waitMs * 2);
    }
  }

  // Until the line ends: why it did, null where the session is over.
  async listen(line) {
    const silence = new Silence(line);
    try {
      const answer = await fetch("/v1/events", { signal: line.signal, cache: "no-store" });
      if (answer.status === 401) return null;
      if (!answer.ok) return (await answer.json().catch(() => ({}))).detail ?? `The sidecar answers ${answer.status}.`;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        silence.again();
        const { value, done } = await reader.read();
        if (done) return "The sidecar closed the line.";
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const end = this.take(part);
          if (end !== undefined) return end;
        }
      }
    } finally {
      silence.over();
    }
  }

  // One event. The reason, where it was the last one.
  take(part) {
    const kind = /^event: (.*)$/m.exec(part)?.[1];
    const data = /^data: (.*)$/m.exec(part)?.[1];
    if (!kind || !data) return undefined;
    const told = JSON.parse(data);
    if (kind === "end") return told.reason === "signed_out" ? null : "The sidecar is shutting down.";
    if (kind === "board") this.board = whole(told);
    else if (this.board) apply(this.board, told);
    this.waitMs = FIRST_WAIT_MS;
    this.on.board(this.board);
    return undefined;
  }
}

class Silence {
  constructor(line) {
    this.line = line;
    this.timer = 0;
    this.again();
  }

  again() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.line.abort(), SILENCE_MS);
  }

  over() {
    clearTimeout(this.timer);
  }
}

function whole(told) {
  const tables = {};
  for (const [name, rows] of Object.entries(told.tables)) tables[name] = new Map(Object.entries(rows));
  return { head: told.head, tables, words: told.words, pulse: told.pulse, second: told.second, ...times(told) };
}

function apply(board, told) {
  if (told.head) board.head = told.head;
  for (const [name, change] of Object.entries(told.tables)) {
    const table = (board.tables[name] ??= new Map());
    for (const key of change.gone) table.delete(key);
    for (const [key, row] of Object.entries(change.set)) table.set(key, row);
  }
  overlay(board, told);
  Object.assign(board, times(told));
}

// The last seconds are told again with every change: what other sidecars counted in them comes a little later.
function overlay(board, told) {
  for (; board.second < told.second; board.second += 1) board.pulse.push(board.words.map(() => 0));
  board.pulse.splice(board.pulse.length - told.pulse.length, told.pulse.length, ...told.pulse);
  board.pulse.splice(0, board.pulse.length - KEPT_SECONDS);
}

// Ages are by the sidecar's clock, whatever this machine's says.
function times(told) {
  return { now: told.now, ahead: told.now - Date.now() };
}
