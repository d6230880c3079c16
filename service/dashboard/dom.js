// Elements from data. Text is only ever set as text: nothing that comes from an event, a
// catalog or a customer is parsed as HTML anywhere on this page.

const handled = new WeakSet();

export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
      handled.add(element);
    } else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(4)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

const present = (children) => children.flat(4).filter((c) => c !== null && c !== undefined && c !== false);

export function put(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

// Like `put`, for what is asked for again and again: nodes that stay the same stay in the
// page, so that the focus, a selection, a scrolled table and what is unfolded are kept.
// Children with a `data-key` are told apart by it, others by their place.
export function renew(element, ...children) {
  const wanted = present(children).map((c) => (c instanceof Node ? c : document.createTextNode(String(c))));
  const keys = new Set(wanted.map((c) => c.dataset?.key).filter((key) => key !== undefined));
  const old = new Map();
  for (const each of [...element.childNodes]) {
    const key = each.dataset?.key;
    if (key !== undefined && keys.has(key)) old.set(key, each);
    else if (key !== undefined) each.remove();
  }
  let at = element.firstChild;
  for (const fresh of wanted) {
    const key = fresh.dataset?.key;
    const known = key === undefined ? at : old.get(key);
    const same = known && known.dataset?.key === key;
    if (known === at && same) at = at.nextSibling;
    if (same && alike(known, fresh)) {
      if (known.nextSibling !== at) element.insertBefore(known, at);
      align(known, fresh);
    } else {
      element.insertBefore(fresh, at);
      if (same) known.remove();
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
  return element;
}

const alike = (one, other) => one.nodeName === other.nodeName && !handled.has(one) && !handled.has(other);

function align(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  renew(old, ...fresh.childNodes);
}

export const card = (size, title, ...content) =>
  h("section", { class: `card ${size}` }, title && h("div", { class: "head" }, title), content);

export const heading = (text, ...beside) => [h("h2", {}, text), ...beside];

export const empty = (title, ...hint) => h("p", { class: "empty" }, h("strong", {}, title), hint);

export const problem = (error) => h("p", { class: "error" }, error.message);

export const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];

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
            { class: row.fresh ? "fresh" : null, "data-key": row.key },
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
