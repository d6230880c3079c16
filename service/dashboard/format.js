// Numbers and times as text. Values of the API are decimal strings and stay strings: they are
// grouped by their digits and never pass through a binary fraction, except to be drawn.

export function number(text) {
  if (text === null || text === undefined) return "–";
  const [whole, fraction] = String(text).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return fraction === undefined ? grouped : `${grouped}.${fraction}`;
}

// At most so many places, cut off with a mark where more were there.
export function short(text, places = 3) {
  if (text === null || text === undefined) return "–";
  const [whole, fraction = ""] = String(text).split(".");
  if (fraction.length <= places) return number(text);
  return `${number(`${whole}.${fraction.slice(0, places)}`)}…`;
}

export const money = (text, currency) => `${number(text)} ${currency}`;

export function compact(value) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)}${unit}`;
  }
  return String(+value.toPrecision(3));
}

export const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

const parts = (zone) =>
  new Intl.DateTimeFormat("en-GB", {
    timeZone: zone, hourCycle: "h23",
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
const known = new Map();

function pieces(at, zone) {
  if (!known.has(zone)) known.set(zone, parts(zone));
  return Object.fromEntries(known.get(zone).formatToParts(new Date(at)).map((p) => [p.type, p.value]));
}

export function day(at, zone = ZONE) {
  if (!at) return "–";
  const p = pieces(at, zone);
  return `${p.year}-${p.month}-${p.day}`;
}

// A billing period by its days, the last one not within it; one without length is its instant.
export const period = (start, end, zone) =>
  start === end ? day(start, zone) : `${day(start, zone)} – ${day(end, zone)}`;

export function minute(at, zone = ZONE) {
  if (!at) return "–";
  const p = pieces(at, zone);
  return `${p.year}-${p.month}-${p.day} ${p.hour}:${p.minute}`;
}

export function second(at, zone = ZONE) {
  if (!at) return "–";
  const p = pieces(at, zone);
  return `${p.hour}:${p.minute}:${p.second}`;
}

export function ago(at, now = Date.now()) {
  if (!at) return "never";
  const s = Math.max(0, Math.round((now - new Date(at)) / 1000));
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  if (s < 172800) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} days ago`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${+Number(seconds).toFixed(1)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function group(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([k, v]) => `${k}=${v === null ? "null" : v}`).join(", ");
}

// The exact difference of two decimal strings.
export function minus(one, other) {
  const places = Math.max(...[one, other].map((text) => (text.split(".")[1] || "").length));
  const scaled = (text) => {
    const [whole, fraction = ""] = text.split(".");
    return BigInt(whole + fraction.padEnd(places, "0"));
  };
  const found = scaled(one) - scaled(other);
  const digits = String(found < 0n ? -found : found).padStart(places + 1, "0");
  const sign = found < 0n ? "-" : "";
  return sign + (places ? `${digits.slice(0, -places)}.${digits.slice(-places)}` : digits);
}
