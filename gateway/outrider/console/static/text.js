// Text from outside, made safe to look at. Every name on this page is chosen by an agent or a model: it is only ever
// put into text nodes, isolated from what stands around it, and what cannot be seen in it is shown.

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\ufff9-\ufffb]|(?<!\p{Extended_Pictographic}\ufe0f?\p{Emoji_Modifier}?)\u200d|[\u{e0000}-\u{e007f}]/gu;

export function shown(text) {
  return String(text ?? "").replace(UNSEEN, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);
}

// An element: class, attributes, children. Strings become text nodes.
export function el(tag, classes = "", attributes = {}, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// A name of somebody's: cut by the style where it is long, whole in its title.
export function named(text, classes = "") {
  const safe = shown(text);
  return el("bdi", `name ${classes}`.trim(), { title: safe }, safe);
}

const numbers = new Intl.NumberFormat(undefined);
export const number = (value) => numbers.format(value);

export function share(part, whole) {
  if (!whole || !part) return "0 %";
  const percent = (100 * part) / whole;
  if (percent < 0.1) return "< 0.1 %";
  return `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayTime = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export function localTime(ms) {
  const then = new Date(ms);
  const today = then.toDateString() === new Date().toDateString();
  return (today ? clockTime : dayTime).format(then);
}

// Local time; in UTC on hover.
export function moment(stamp) {
  const ms = Date.parse(stamp);
  if (Number.isNaN(ms)) return document.createTextNode("");
  const utc = `${new Date(ms).toISOString().replace("T", " ").slice(0, 19)} UTC`;
  return el("time", "moment", { datetime: new Date(ms).toISOString(), title: utc }, localTime(ms));
}

export function lasted(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// How long it lasts, or with `ago` how long ago it was; renewed by `renewAges`, so that its row need not be made again.
export function age(stamp, ago = false) {
  const made = moment(stamp);
  if (made.nodeType !== Node.ELEMENT_NODE) return made;
  made.title = `${localTime(Date.parse(stamp))} · ${made.title}`;
  made.dataset.since = String(Date.parse(stamp));
  if (ago) made.dataset.ago = "";
  return made;
}

export function renewAges(nowMs) {
  for (const one of document.querySelectorAll("[data-since]")) {
    const ms = nowMs - Number(one.dataset.since);
    const told = !("ago" in one.dataset) ? lasted(ms) : ms < 2500 ? "now" : `${lasted(Math.floor(ms / 1000) * 1000)} ago`;
    if (one.textContent !== told) one.textContent = told;
  }
}

export function pill(word, tone) {
  return el("span", `pill ${tone}`, {}, word);
}
