// The chosen call: what it is, what it reads and who reads it, its work and what that costs.

const NEIGHBOURS = 9;
const BOX = { width: 118, height: 30, gap: 6 };

function detail(entry, view) {
  const { of, row, sign } = entry;
  const regions = of.chainOf(row);
  const facts = [
    ["result", element("code", {}, of.type(row))],
    ["arguments", element("code", {}, of.arguments(row) || "none")],
    ["layer", of.module(row) || "the step"],
    ["line", element("code", {}, of.where(row) || "none")],
    ["phase", of.phase(row) || "none"],
    ["runs", regions.length ? element("span", {}, regions.map((branch) => element("div", {},
      key(of.content.branches[branch][0], of.paint(branch)),
      element("button", { class: "link", onclick: () => view.choose(of.content.branches[branch][1]) }, "its conditional"))))
      : "always"],
    ...(of.results.has(row) ? [["given out as", of.results.get(row).join(", ")]] : []),
    ...(sign ? [["change", `${sign}, against ${STAGES[view.other].name}`]] : []),
  ];
  return [
    element("h1", { class: "mono" }, `${of.label(row)} ${of.operator(row)}`),
    element("dl", {}, facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    element("h2", {}, "Reads, and is read by"),
    neighbours(of, row, view),
    ...bill(of, row, view),
  ];
}

function neighbours(of, row, view) {
  const sides = [[...new Set(of.reads[row])], of.users[row]];
  const rows = Math.max(1, ...sides.map((side) => Math.min(side.length, NEIGHBOURS)));
  const height = rows * (BOX.height + BOX.gap) + BOX.gap + 14;
  const middle = (height - BOX.height) / 2;
  const parts = [];
  const place = (side, i) => {
    const count = Math.min(sides[side].length, NEIGHBOURS);
    return { x: side * 2 * 145 + 2, y: (height - count * (BOX.height + BOX.gap)) / 2 + i * (BOX.height + BOX.gap) };
  };
  sides.forEach((found, side) => found.slice(0, NEIGHBOURS).forEach((other, i) => {
    const { x, y } = place(side, i);
    const [from, to] = side === 0 ? [[x + BOX.width, y], [147, middle]] : [[147 + BOX.width, middle], [x, y]];
    const half = (from[0] + to[0]) / 2;
    const [a, b] = [from[1] + BOX.height / 2, to[1] + BOX.height / 2];
    parts.unshift(drawn("path", { d: `M${from[0]},${a} C${half},${a} ${half},${b} ${to[0]},${b}` }));
    parts.push(box(of, other, x, y, view, ""));
  }));
  parts.push(box(of, row, 147, middle, view, "self"));
  sides.forEach((found, side) => {
    if (found.length > NEIGHBOURS) {
      parts.push(drawn("text", { x: side * 290 + 4, y: height - 3 }, `and ${whole(found.length - NEIGHBOURS)} more`));
    }
  });
  return drawn("svg", { viewBox: `0 0 412 ${height}`, width: "100%", "aria-label": "neighbours" }, parts);
}

function box(of, row, x, y, view, kind) {
  const go = () => (of === view.stage ? view.choose(row) : undefined);
  const value = view.cost({ of, row });
  const short = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);
  return drawn("g", { class: `node ${kind}`, tabindex: kind ? -1 : 0, role: "button", onclick: go,
    onkeydown: (event) => { if (event.key === "Enter") go(); } },
    drawn("title", {}, `${of.label(row)} ${of.operator(row)} ${of.type(row)} ${of.module(row)}`),
    drawn("rect", { x, y, width: BOX.width, height: BOX.height, rx: 4 }),
    drawn("rect", { x, y, width: 5, height: BOX.height, style: value ? `fill:${view.heat(value)}` : "fill:none;stroke:none" }),
    drawn("text", { x: x + 9, y: y + 12 }, short(`${of.label(row)} ${of.operator(row).replace(/^aten\./, "")}`)),
    drawn("text", { x: x + 9, y: y + 25, opacity: 0.7 }, short(of.type(row))));
}

// Work, conditions and prices of a call.
function bill(of, row, view) {
  const work = TABLES.works[of.content.works[row]];
  if (!work.length) {
    if (of.operator(row) === "input") return [];
    const why = (of === view.stage ? view.joules : view.otherJoules) === null
      ? "Work is counted from the differentiated stage on: before, a call stands for several."
      : "None is counted: a view, a constant, or a choice that is certain where it is made.";
    return [element("h2", {}, "Work"), element("p", { class: "dim" }, why)];
  }
  const shares = sharesOf(view.scenario);
  const parts = [];
  for (let i = 0; i < work.length; i += 2) {
    const chance = probability(work[i + 1], shares);
    const rows = lines(work[i], of.content.operators[row]).map((line) => [
      element("code", {}, line.quantity), number(line.quantity.startsWith("time") ? si(line.amount, "s") : whole(line.amount)),
      number(`${plain(line.figure.value)} ${line.figure.unit}`),
      element("span", { class: "tag", title: `${line.figure.source} (${line.figure.date})` }, line.figure.tag),
      number(joules(line.joules * chance))]);
    parts.push(element("p", {}, conditions(work[i + 1], shares, chance)),
      table(["quantity", number("amount"), number("price"), "price is", number("expected")], rows));
  }
  return [element("h2", {}, `Work: ${joules(view.cost({ of, row }))}, modelled`), ...parts];
}

function conditions(when, shares, chance) {
  const found = TABLES.when[when];
  if (!found.length) return "in every scheduled step";
  const names = found.map(([name, samples]) =>
    samples ? `any of ${samples} samples lives in ${name} (${percent(shares[name])} each)` : `${name} ${percent(shares[name])}`);
  return `where ${names.join(" and ")}: ${percent(chance)}`;
}
