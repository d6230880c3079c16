// Charts by uPlot, drawn in the colours of the page, each with its data as a table beside it.

import { compact } from "./format.js";
import { h, put, renew, table } from "./dom.js";

const css = (name) => {
  // A custom property may be light-dark(...): let the browser resolve it.
  const probe = h("span", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
};

const soft = (colour, alpha) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

// Labels of time: the step, its label, and what is added where a year or a day begins.
const TIMES = [
  [31536000, "{YYYY}", null, null, null, null, null, null, 1],
  [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
];

const axes = (dim, line) => [
  { stroke: dim, grid: { show: false }, ticks: { stroke: line, size: 4 }, font: "11px system-ui, sans-serif", space: 70, values: TIMES },
  {
    stroke: dim, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif",
    size: 48, space: 36, values: (_, ticks) => ticks.map(compact),
  },
];

// A chart that is kept and fed again: {x, series: [{name, values, shown}], stacked}. `values`
// are drawn, `shown` are the same as text, for the readout below the chart.
export class Chart {
  constructor(label, { bars = false, tall = false, zone, when } = {}) {
    this.given = { bars, zone };
    this.when = when;
    this.host = h("div", { class: tall ? "chart tall" : "chart", role: "img", "aria-label": label });
    this.label = label;
    this.plot = null;
    this.data = null;
    this.pointed = () => {};
    this.size = new ResizeObserver(() => this.fit());
    this.size.observe(this.host);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.again = () => this.redraw();
    this.scheme.addEventListener("change", this.again);
    document.addEventListener("themechange", this.again);
  }

  show(data, about) {
    const kind = (of) => of && JSON.stringify([of.stacked, of.series.length]);
    const same = kind(this.data) === kind(data);
    this.data = data;
    if (about) this.host.setAttribute("aria-label", `${this.label}: ${about}`);
    if (this.plot && same) this.plot.setData(this.drawn());
    else this.redraw();
  }

  // Series that are stacked are drawn as sums, the highest first and the others over it.
  drawn() {
    const { x, series, stacked } = this.data;
    if (!stacked) return [x, ...series.map((each) => each.values)];
    const sums = [];
    for (const { values } of series) {
      const below = sums.at(-1);
      sums.push(values.map((value, n) => value + (below ? below[n] : 0)));
    }
    return [x, ...sums.reverse()];
  }

  // What the chart shows at a place, in words.
  told(place) {
    const { x, series } = this.data;
    const values = series.filter((each) => each.shown[place] !== undefined && each.shown[place] !== null);
    const one = series.length === 1;
    return `${this.when(x[place])}: ${values.map((each) => (one ? "" : `${each.name} `) + each.shown[place]).join(", ") || "nothing"}`;
  }

  fit() {
    const width = this.host.clientWidth;
    if (this.plot && width) this.plot.setSize({ width, height: this.host.clientHeight });
    else if (width) this.redraw();
  }

  redraw() {
    const width = this.host.clientWidth;
    if (!this.data || !width || !window.uPlot) return;
    if (this.plot) this.plot.destroy();
    const { bars, zone } = this.given;
    const { series, stacked } = this.data;
    const solid = bars && (stacked || series.length === 1);
    const drawn = series.map((_, n) => {
      const colour = css(`--s${(stacked ? series.length - 1 - n : n) % COLOURS}`);
      return {
        stroke: colour, width: solid ? 0 : 1.6, points: { show: false }, spanGaps: false,
        fill: solid ? colour : series.length === 1 ? soft(colour, 0.12) : undefined,
        paths: solid ? window.uPlot.paths.bars({ size: [0.78, 60], radius: stacked ? 0 : 0.12 }) : undefined,
      };
    });
    this.plot = new window.uPlot(
      {
        width, height: this.host.clientHeight, padding: [8, 26, 0, 0],
        cursor: { y: false, points: { show: !solid, size: 6 }, drag: { x: false, y: false } }, legend: { show: false },
        scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] } },
        tzDate: zone ? (ts) => window.uPlot.tzDate(new Date(ts * 1000), zone) : undefined,
        axes: axes(css("--dim"), css("--line")), series: [{}, ...drawn],
        hooks: { setCursor: [(plot) => this.pointed(plot.cursor.left >= 0 ? plot.cursor.idx : null)] },
      },
      this.drawn(),
      this.host,
    );
    this.host.querySelectorAll("canvas").forEach((each) => each.setAttribute("aria-hidden", "true"));
  }

  close() {
    this.size.disconnect();
    this.scheme.removeEventListener("change", this.again);
    document.removeEventListener("themechange", this.again);
    if (this.plot) this.plot.destroy();
  }
}

export const COLOURS = 6;

// A chart with what it says in words (of the step that one points at), and its numbers
// behind a disclosure.
export function figure(chart, columns) {
  const said = h("figcaption", {});
  const rows = h("div", {});
  const more = h("details", {}, h("summary", {}, "Show as a table"), rows);
  const element = h("figure", {}, chart.host, said, more);
  let last = [];
  let words = "";
  let place = null;
  const say = () => put(said, place === null ? words : chart.told(place));
  const fill = () => more.open && renew(rows, table(columns, last, { caption: chart.label }));
  more.addEventListener("toggle", fill);
  chart.pointed = (at) => {
    if ((at ?? null) === place) return;
    place = at ?? null;
    say();
  };
  return {
    element,
    show(data, text, items) {
      last = items;
      words = text;
      if (place !== null && place >= data.x.length) place = null;
      chart.show(data, text);
      say();
      fill();
    },
  };
}

// A ranked list with bars: [{name, value (text), href, series}]; a series has its colour.
export function ranks(items, unit) {
  const most = Math.max(...items.map((each) => Number(each.value) || 0), 0);
  return h(
    "ol",
    { class: "ranks" },
    items.map((each) =>
      h(
        "li",
        {},
        h("span", { class: "name" }, each.series !== undefined && h("span", { class: `swatch s${each.series}` }), each.href ? h("a", { href: each.href }, each.name) : each.name),
        h("span", { class: "num" }, each.shown),
        h("meter", { min: 0, max: most || 1, value: Number(each.value) || 0, "aria-label": `${each.name}: ${each.shown} ${unit}` }),
      ),
    ),
  );
}
