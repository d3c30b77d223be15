// Values as people read them.

/** "$0.0123", with ">=" before what is at least so much. */
export function money(usd, exact = true) {
  const digits = Math.abs(usd) >= 100 ? 2 : 4;
  return `${exact === false ? ">=" : ""}$${usd.toFixed(digits)}`;
}

/** An amount that a person chose: "$2.00". */
export function cap(usd) {
  return `$${usd.toFixed(Math.abs(usd * 100 - Math.round(usd * 100)) < 1e-6 ? 2 : 4)}`;
}

/** Seconds since the epoch of a time as the data has it; null where there is none. */
export function seconds(iso) {
  return iso ? Date.parse(iso) / 1000 : null;
}

/** The time now, for values that were told a while ago; in a file, the time when it was made. */
export function nowOf(data) {
  return seconds(data.at) + (data.got === undefined ? 0 : (performance.now() - data.got) / 1000);
}

/** "45s", "12m 05s", "3h 07m", "2d 04h". */
export function span(length) {
  const whole = Math.max(0, Math.round(length));
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return length < 10 ? `${Math.max(0, length).toFixed(1)}s` : `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor((whole % 86400) / 3600))}h`;
}

/** A time of day, with the day where it is not today. */
export function clock(at, now = Date.now() / 1000) {
  if (at === null) return "";
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString([], { hour12: false });
  return date.toDateString() === new Date(now * 1000).toDateString()
    ? time
    : `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, "0")}-${String(date.getDate()).padStart(2, "0")} ${time}`;
}

export function size(bytes) {
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (bytes >= unit) return `${(bytes / unit).toFixed(1).replace(/\.0$/, "")} ${name}`;
  }
  return `${bytes} B`;
}

export function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

const KINDS = {
  good: ["completed", "done"],
  work: ["busy", "starting", "attached", "running", "loading"],
  rest: ["ready", "created", "stopped", "waiting", "skipped", "cancelled", "paused", "queued", "killed", "sent"],
  wait: ["needs_input", "interrupted", "rate_limited", "parked", "asks", "frozen", "checking", "unchecked"],
};
const ICONS = { good: "✓", work: "●", rest: "○", wait: "?", bad: "✗" };

/** What kind of state a word is: good, work, rest, wait or bad. */
export function kind(state) {
  return Object.keys(KINDS).find((name) => KINDS[name].includes(state)) || "bad";
}

export function icon(state) {
  return ICONS[kind(state)];
}

/** "cost exceeded" for "cost_exceeded". */
export function plain(word) {
  return word.replaceAll("_", " ");
}
