// Elements from data. Text is only ever set as text: nothing that comes from an event, a
// catalog or a customer is parsed as HTML anywhere on this page.

export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(4)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

export function put(element, ...children) {
  element.replaceChildren(
    ...children.flat(4).filter((c) => c !== null && c !== undefined && c !== false),
  );
  return element;
}

export const card = (size, title, ...content) =>
  h("section", { class: `card ${size}` }, title && h("div", { class: "head" }, title), content);

export const heading = (text, ...beside) => [h("h2", {}, text), ...beside];

export const empty = (title, ...hint) => h("p", { class: "empty" }, h("strong", {}, title), hint);

export const problem = (error) => h("p", { class: "error", role: "alert" }, error.message);

export const tag = (text, kind = "") => h("span", { class: `tag ${kind}` }, text);

export const link = (path, text, given = {}) => h("a", { href: `#${path}`, ...given }, text);

export const pathOf = (...parts) => "/" + parts.map(encodeURIComponent).join("/");

// columns: [{title, cell(row), num, keep, class}]
export function table(columns, rows, { caption, foot } = {}) {
  const kind = (c) => [c.num && "num", c.keep && "keep", c.class].filter(Boolean).join(" ") || null;
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h("tr", {}, columns.map((c) => h("th", { scope: "col", class: kind(c) }, c.title))),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            { class: row.fresh ? "fresh" : null },
            columns.map((c) => h("td", { class: kind(c) }, c.cell(row))),
          ),
        ),
      ),
      foot && h("tfoot", {}, foot),
    ),
  );
}

export function choice(label, options, chosen, change) {
  const select = h(
    "select",
    { onchange: (event) => change(event.target.value) },
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );
  return h("label", { class: "field" }, label, select);
}
