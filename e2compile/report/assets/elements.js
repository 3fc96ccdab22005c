// Elements, and numbers as people read them.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  return filled(made, attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];

// 0.0382 J is 38.2 mJ.
function si(value, unit) {
  if (!value) return `0 ${unit}`;
  const [scale, prefix] = PREFIXES.find(([size]) => Math.abs(value) >= size * 0.9995) ?? PREFIXES.at(-1);
  return `${plain(value / scale)} ${prefix}${unit}`;
}

function plain(value) {
  return Math.abs(value) >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

const joules = (value) => si(value, "J");
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const whole = (value) => Math.round(value).toLocaleString("en");

function bytes(count) {
  const found = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]].find(([size]) => count >= size);
  return found ? `${(count / found[0]).toFixed(1)} ${found[1]}` : `${count} bytes`;
}

// A table of rows of cells; numbers lie to the right.
function table(headers, rows, attributes = {}) {
  const cell = (name, value) => {
    const isNumber = typeof value === "object" && value !== null && "number" in value;
    return element(name, { class: isNumber ? "number" : undefined }, isNumber ? value.number : value);
  };
  const head = element("thead", {}, element("tr", {}, headers.map((value) => cell("th", value))));
  const body = rows.map((row) => element("tr", {}, row.map((value) => cell("td", value))));
  return element("table", attributes, headers.length ? head : null, element("tbody", {}, body));
}

const number = (text) => ({ number: text });

function meter(share) {
  const width = `width:${(100 * Math.min(1, share)).toFixed(1)}%`;
  return element("span", {}, element("span", { class: "meter" }, element("i", { style: width })), percent(share));
}

// A choice of values with labels; `chosen` is told the value.
function choice(label, values, value, chosen) {
  const options = values.map(([key, text]) =>
    element("option", { value: key, selected: key === value ? "" : undefined }, text));
  const select = element("select", { onchange: (event) => chosen(event.target.value) }, options);
  return element("label", {}, `${label} `, select);
}

const PHASES = ["forward", "backward", "update", "evaluation"];
const colour = (phase) => `var(--${PHASES.includes(phase) ? phase : "other"})`;

function key(name, paint) {
  return element("span", { class: "key" }, element("i", { style: `background:${paint}` }), name);
}
