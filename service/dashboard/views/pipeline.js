// How the pipeline is: checks, delays, and what waits for somebody.

import { get } from "../api.js";
import { card, empty, fact, h, heading, link, renew, table, tag } from "../dom.js";
import { ago, minute, number, span } from "../format.js";

export function pipeline(view) {
  view.head(h("h1", {}, "Pipeline"), h("span", { class: "dim small" }, "told from what it leaves in the warehouse"));
  const checks = h("div", {});
  const facts = h("div", {});
  const counts = h("div", {});
  const waits = h("div", {});
  view.body.append(
    card("w6", heading("Checks"), checks),
    card("w6", heading("Delays"), facts),
    card("w6", heading("The last five minutes"), counts),
    card("w6", heading("Waits for somebody"), waits),
  );
  view.every(2, async () => {
    const found = await get("/v1/status");
    renew(checks, table([
      { title: "check", cell: (row) => row.name },
      { title: "state", cell: (row) => (row.ok ? tag("ok", "ok") : tag("failing", "bad")) },
      { title: "found", cell: (row) => row.detail },
    ], found.checks, { caption: "Checks" }));
    if (!found.counts) return;
    renew(facts, h(
      "dl",
      { class: "facts" },
      fact("events that wait", found.lag === null ? "not known here" : number(found.lag)),
      fact("stored after", found.delay_seconds.events ? delay(found.delay_seconds) : "no stream stored anything"),
      fact("in usage after", found.usage_delay_seconds.flushes ? delay(found.usage_delay_seconds) : "no usage was written"),
      fact("last batch", found.last_batch ? ago(found.last_batch) : "none in five minutes"),
      fact("shards that own buckets", number(found.shards)),
      fact("heard from all of them", found.silent_seconds === null ? "–" : `${span(found.silent_seconds)} ago`),
      fact("watermark behind the clock", span(found.watermark_lag_seconds)),
      fact("buckets closed until", found.closed_until ? minute(found.closed_until) : "nothing is owned by a stream"),
    ));
    renew(counts, table([
      { title: "events", cell: ([name]) => name },
      { title: "number", num: true, cell: ([, value]) => number(value) },
    ], flow(found), { caption: "Counts" }));
    const refused = Object.entries(found.quarantined);
    const dirty = Object.entries(found.dirty);
    renew(
      waits,
      refused.length + dirty.length === 0 && empty("Nothing waits", "Late events, conflicts and refused events show here."),
      refused.map(([reason, count]) => h("div", { class: "head target" }, link(`/quarantine?reason=${encodeURIComponent(reason)}`, `quarantined: ${reason}`), h("span", { class: "num" }, number(count)))),
      dirty.map(([reason, count]) => h("div", { class: "head" }, h("span", {}, `to repair: ${reason}`), h("span", { class: "num" }, number(count)))),
      dirty.length > 0 && h("p", { class: "small dim" }, "Run ", h("code", {}, "beammeter repair"), `; the oldest mark is from ${minute(found.dirty_since)}.`),
    );
  });
}

const delay = (of) => `${span(of.median)} median, ${span(of.p95)} p95, ${span(of.most)} at most`;

// From what was sent here to the rows that were written.
function flow({ sent, refused_requests: requests, counts, sink }) {
  const here = sent ? [["sent to this server and durable", sent.accepted], ["refused by this server", sent.refused], ["failed, to be sent again", sent.failed]] : [];
  const unread = Object.entries(requests || {}).map(([code, count]) => [`requests refused: ${code}`, count]);
  const read = Object.entries(counts).filter(([name]) => !["batches", "rounded"].includes(name));
  const rounded = counts.rounded ? [["numbers rounded to 12 decimals", counts.rounded]] : [];
  return [...here, ...unread, ...read, ...rounded, ["usage rows written", sink.rows], ["writes tried again", sink.retries]];
}
