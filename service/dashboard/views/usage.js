// Usage row by row, as `beammeter usage` prints it.

import { get } from "../api.js";
import { card, choice, empty, h, heading, link, pathOf, put, table } from "../dom.js";
import { group, minute, number } from "../format.js";

export function usage(view) {
  const { meters, customers } = view.catalog;
  const asked = {
    granularity: view.args.query.get("granularity") || "day",
    meter: view.args.query.get("meter") || "",
    customer: view.args.query.get("customer") || "",
    from: "", to: "", key: "",
  };
  const zones = new Map(customers.map((each) => [each.id, each.time_zone]));
  view.head(h("h1", {}, "Usage"), h("span", { class: "dim small" }, "hours, days and periods are the customer's"));
  const controls = h("div", { class: "bar" });
  const rows = h("div", {});
  const more = h("div", {});
  view.body.append(h("div", { class: "w12" }, controls), card("w12", heading("Rows"), rows, more));
  const set = (name) => (value) => { asked[name] = value; draw(); load(); };
  const date = (label, name) => h("label", { class: "field" }, label, h("input", { type: "date", value: asked[name], onchange: (event) => set(name)(event.target.value) }));
  const draw = () => {
    const meter = meters.find((each) => each.id === asked.meter);
    const keys = [...new Set((meter ? [meter] : meters).flatMap((each) => each.group_by))];
    put(
      controls,
      choice("Meter", [["", "all"], ...meters.map((each) => [each.id, each.id])], asked.meter, set("meter")),
      choice("Customer", [["", "all"], ...customers.map((each) => [each.id, each.id])], asked.customer, set("customer")),
      choice("By", [["hour", "hour"], ["day", "day"], ["period", "billing period"]], asked.granularity, set("granularity")),
      keys.length > 0 && choice("Groups", [["", "all apart"], ...keys.map((each) => [each, `merged to ${each}`])], asked.key, set("key")),
      date("From (UTC)", "from"),
      date("Until (UTC)", "to"),
    );
  };
  let shown = [];
  const load = (cursor) => view.once(async () => {
    const page = await get("/v1/usage", {
      granularity: asked.granularity, meter: asked.meter, customer: asked.customer, group_by: asked.key, limit: 100, cursor,
      from: asked.from && `${asked.from}T00:00:00Z`, to: asked.to && `${asked.to}T00:00:00Z`,
    });
    shown = cursor ? [...shown, ...page.items] : page.items;
    put(rows, shown.length ? table([
      { title: "customer", cell: (row) => link(pathOf("customers", row.customer), row.customer) },
      { title: "subscription", class: "wide-only", cell: (row) => row.subscription ?? h("span", { class: "dim" }, "none") },
      { title: "meter", cell: (row) => row.meter },
      { title: "from", keep: true, cell: (row) => h("span", { title: `${row.start} to ${row.end}` }, minute(row.start, zones.get(row.customer))) },
      { title: "group", cell: (row) => group(row.group) },
      { title: "value", num: true, cell: (row) => number(row.value) },
      { title: "events", num: true, cell: (row) => number(row.events) },
    ], shown, { caption: "Usage" }) : empty("No usage matches", "Take a filter away, or backfill the files of that time: ", h("code", {}, "beammeter backfill --input …")));
    put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
  });
  draw();
  load();
}
